"""The thing that ships: one directory, or one `.zip`, with the model and all that is known about it.

    manifest.sha256   the manifest's own checksum, as `sha256sum` writes it
    manifest.json     sha256 and size of every other file; signature, lineage, versions; where it was proven;
                      session settings; measured results; task
    model.onnx        and the files with its external data
    golden.npz  expected.npz      inputs, and the outputs that the model must give for them
    tokenizer.json ...            what the task needs

A bundle is flat, and no byte of it can change unseen. This guards against damage, not against an author with bad
intent: whoever can write the files can write the checksums.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
import stat
import tempfile
import weakref
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edgeai.archive import REPACK, refuse_unsafe_name, unpack_archive, write_archive
from edgeai.artifact import Artifact, Step
from edgeai.errors import DataError, IntegrityError, ResourceLimitError, UnsafePathError, UsageError
from edgeai.external import refuse_outside
from edgeai.machine import usable_cores, versions
from edgeai.manifest import GOLDEN_INPUTS, GOLDEN_OUTPUTS, MANIFEST, MANIFEST_SUM, FileRecord, Manifest
from edgeai.samples import Samples
from edgeai.spec import Array, Signature
from edgeai.storage import atomic_dir, atomic_file, refuse_existing, sha256

_LARGEST_MANIFEST_BYTES = 16 << 20
_LARGE_BYTES = 8 << 20  # hashing of less takes a few milliseconds
_LARGEST_GOLDEN_BYTES = 1 << 30  # unpacked: a small .npz can claim any size


@dataclass(frozen=True)
class Golden:
    """Inputs, and the outputs expected for each, in order.

    `tolerance` bounds each output's largest error relative to the output's largest expected magnitude.
    Raises DataError if the two do not have the same length, UsageError for a tolerance that is not positive.
    """

    inputs: Samples
    expected: Samples
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.expected):
            raise DataError(f"golden vectors: {len(self.inputs)} inputs but {len(self.expected)} expected outputs")
        if not 0 < self.tolerance < float("inf"):
            raise UsageError(f"golden vectors: tolerance {self.tolerance} is not a positive number")

    def pairs(self) -> list[tuple[dict[str, Array], dict[str, Array]]]:
        """(inputs, expected outputs) of each golden vector."""
        return list(zip(self.inputs.feeds(), self.expected.feeds(), strict=True))


@dataclass(frozen=True)
class Bundle:
    """An open bundle whose every byte was checked. `path` is what ships, `directory` where its files are."""

    path: Path
    directory: Path
    contents: Manifest
    _unpacked: _Unpacked | None = field(default=None, repr=False, compare=False)

    @property
    def manifest(self) -> dict[str, Any]:
        """`manifest.json` as it was written."""
        return self.contents.to_json()

    @property
    def model_path(self) -> Path:
        return self.directory / self.contents.model

    @property
    def signature(self) -> Signature | None:
        return self.contents.signature

    @property
    def lineage(self) -> tuple[Step, ...]:
        return self.contents.lineage

    @property
    def task(self) -> Mapping[str, Any]:
        """What the model is for: `task`, `labels`, `preprocessing`; empty if nothing was said."""
        return self.contents.task

    @property
    def size_bytes(self) -> int:
        """All files together, without the manifest."""
        return sum(record.size_bytes for record in self.contents.files.values())

    def file(self, name: str) -> Path:
        """One of the bundle's files. Raises IntegrityError if the manifest does not list it."""
        if name not in self.contents.files:
            raise IntegrityError(f"{self.path}: {name} is not in the bundle", hint="pack it again with this file")
        return self.directory / name

    def golden(self) -> Golden | None:
        """The golden vectors, or None. Raises DataError or ResourceLimitError if they cannot be read."""
        if self.contents.tolerance is None:
            return None
        inputs, expected = (_read_samples(self.file(name)) for name in (GOLDEN_INPUTS, GOLDEN_OUTPUTS))
        return Golden(inputs, expected, self.contents.tolerance)

    def close(self) -> None:
        """Remove what was unpacked. May be called twice."""
        if self._unpacked is not None:
            self._unpacked.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Unpacked:
    """A directory that only its owner can enter, removed when it is no longer needed or the process ends."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="edgeai-"))
        self.remove = weakref.finalize(self, _remove, self.path, os.getpid())


def _remove(path: Path, process: int) -> None:
    if process == os.getpid():  # a child that was forked has the finalizer too, but not the directory
        shutil.rmtree(path, ignore_errors=True)


def is_bundle(path: str | Path) -> bool:
    """Is this for `open_bundle` to read: a directory, or a zip by its name or its first bytes?"""
    path = Path(path)
    if path.is_dir() or path.suffix == ".zip":
        return True
    try:
        with open(path, "rb") as stream:
            return stream.read(4) == b"PK\x03\x04"
    except OSError:
        return False


def pack(
    artifact: Artifact,
    out: str | Path,
    *,
    golden: Golden | None = None,
    task: Mapping[str, Any] | None = None,
    extras: Mapping[str, Path] | None = None,
    settings: Mapping[str, Any] | None = None,
    results: Mapping[str, Any] | None = None,
    proven_on: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Write a bundle to `out`, whole or not at all: a zip if the name ends in `.zip`, else a directory.

    `extras` maps names inside the bundle to files (a tokenizer). The other mappings go into the manifest as JSON.
    Raises ExistsError, UnsafePathError (a name that is no plain file name), UsageError (a name given twice, a value
    that is not JSON), ModelFormatError (the model or a data file of it is missing), DataError (an extra is missing).
    """
    out = Path(out)
    refuse_existing(out, overwrite)
    manifest = Manifest(
        model=f"model{artifact.path.suffix}",
        files={},
        signature=artifact.signature,
        lineage=artifact.lineage,
        versions=versions(),
        proven_on=dict(proven_on or {}),
        settings=dict(settings or {}),
        results=dict(results or {}),
        task=dict(task or {}),
        tolerance=None if golden is None else golden.tolerance,
    )
    sources = [(manifest.model, artifact.path)]
    sources += [(name, artifact.path.parent / name) for name in refuse_outside(artifact.path)]
    for name, extra in (extras or {}).items():
        if not Path(extra).is_file():
            raise DataError(f"{extra}: no such file", hint=f"it was to become {name} in {out}")
        sources.append((name, Path(extra)))
    if golden is not None:
        sources += [(name, Path()) for name in (GOLDEN_INPUTS, GOLDEN_OUTPUTS)]
    _refuse_bad_names([name for name, _ in sources])
    if out.suffix == ".zip":
        with atomic_file(out, overwrite=overwrite) as temporary, tempfile.TemporaryDirectory() as scratch:
            write_archive(temporary, _write_files(Path(scratch), sources, golden, manifest, link=True))
    else:
        with atomic_dir(out, overwrite=overwrite) as temporary:
            _write_files(temporary, sources, golden, manifest)
    return open_bundle(out)


def _write_files(
    directory: Path, sources: list[tuple[str, Path]], golden: Golden | None, manifest: Manifest, *, link: bool = False
) -> list[tuple[str, Path]]:
    """Fill `directory`; what is only going to be copied from there is linked, which costs no second copy."""
    for name, source in sources:
        if name == GOLDEN_INPUTS and golden is not None:
            golden.inputs.save(directory / name)
        elif name == GOLDEN_OUTPUTS and golden is not None:
            golden.expected.save(directory / name)
        elif link:
            (directory / name).symlink_to(source.resolve())
        else:
            shutil.copyfile(source, directory / name)
    files = {name: FileRecord(sha256(directory / name), (directory / name).stat().st_size) for name, _ in sources}
    content = dataclasses.replace(manifest, files=files).to_bytes()
    (directory / MANIFEST).write_bytes(content)
    (directory / MANIFEST_SUM).write_bytes(_manifest_sum(content))
    return [(name, directory / name) for name in (*files, MANIFEST, MANIFEST_SUM)]


def open_bundle(path: str | Path) -> Bundle:
    """Check every byte of a bundle, and unpack it if it is a zip (into a directory that only its owner can enter).

    Raises IntegrityError, UnsafePathError or ResourceLimitError, naming the file. Close it when done.
    """
    bundle = _listed(Path(path))
    try:
        _check(bundle, bundle.contents.files)
    except BaseException:
        bundle.close()
        raise
    return bundle


@contextlib.contextmanager
def bundle_being_checked(path: str | Path) -> Iterator[Bundle]:
    """`open_bundle`, but files of many megabytes are hashed while the body runs: what it makes of them counts after it.

    Of damaged files IntegrityError is what leaves, whatever the body made of them. Then, and whenever the body raises,
    the bundle is closed.
    """
    bundle = _listed(Path(path))
    try:
        files = bundle.contents.files
        large = {name for name, record in files.items() if record.size_bytes >= _LARGE_BYTES and usable_cores() > 1}
        _check(bundle, files.keys() - large)
        with ThreadPoolExecutor(1, thread_name_prefix="edgeai-check") as aside:
            verdict = aside.submit(_check, bundle, large)
            try:
                yield bundle
            finally:
                verdict.result()
    except BaseException:
        bundle.close()
        raise


def _listed(path: Path) -> Bundle:
    """The bundle, unpacked, with nothing but its manifest and the names and sizes of its files checked."""
    if path.is_dir():
        return Bundle(path, path, _manifest(path, path))
    if not path.is_file():
        raise IntegrityError(f"{path}: no such bundle")
    if not is_bundle(path):
        raise IntegrityError(f"{path}: not a bundle", hint="a bundle is a directory or a zip")
    unpacked = _Unpacked()
    try:
        unpack_archive(path, unpacked.path)
        return Bundle(path, unpacked.path, _manifest(unpacked.path, path), unpacked)
    except BaseException:
        unpacked.remove()
        raise


def _manifest(directory: Path, shown_as: Path) -> Manifest:
    """The manifest, if the files are there in their sizes and no others. `shown_as` is what the user called it."""
    present = _plain_files(directory, shown_as)
    for name in (MANIFEST_SUM, MANIFEST):
        if name not in present:
            raise IntegrityError(f"{shown_as}: not a bundle, {name} is missing")
        if present[name] > _LARGEST_MANIFEST_BYTES:
            raise ResourceLimitError(f"{shown_as}: {name} is larger than {_LARGEST_MANIFEST_BYTES >> 20} MiB")
    content = (directory / MANIFEST).read_bytes()
    if (directory / MANIFEST_SUM).read_bytes() != _manifest_sum(content):
        raise IntegrityError(f"{shown_as}: {MANIFEST} is not what {MANIFEST_SUM} says", hint=REPACK)
    manifest = Manifest.from_bytes(content, shown_as)
    if extra := sorted(present.keys() - manifest.files.keys() - {MANIFEST, MANIFEST_SUM}):
        raise IntegrityError(f"{shown_as}: {extra[0]} is not in the manifest", hint="remove it, or pack again")
    for name, record in manifest.files.items():
        if name not in present:
            raise IntegrityError(f"{shown_as}: {name} is missing", hint=REPACK)
        if present[name] != record.size_bytes:
            raise _changed(shown_as, name)
    return manifest


def _check(bundle: Bundle, names: Iterable[str]) -> None:
    for name in sorted(names):
        if sha256(bundle.directory / name) != bundle.contents.files[name].sha256:
            raise _changed(bundle.path, name)


def _changed(shown_as: Path, name: str) -> IntegrityError:
    return IntegrityError(f"{shown_as}: {name} is not what the manifest says", hint=REPACK)


def _plain_files(directory: Path, shown_as: Path) -> dict[str, int]:
    """Name and size of each entry. A hard link may pass: what it holds is checked like the rest."""
    found = {}
    with os.scandir(directory) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                raise UnsafePathError(f"{shown_as}: {entry.name} is a symbolic link", hint="a bundle holds plain files")
            if not stat.S_ISREG(status.st_mode):
                raise IntegrityError(f"{shown_as}: {entry.name} is not a plain file", hint="a bundle holds plain files")
            found[entry.name] = status.st_size
    return found


def _refuse_bad_names(names: list[str]) -> None:
    taken = {MANIFEST, MANIFEST_SUM}
    for name in names:
        refuse_unsafe_name(name, "bundle")
        if name in taken:
            raise UsageError(f"bundle: two files would be called {name}", hint="give one of them another name")
        taken.add(name)


def _read_samples(path: Path) -> Samples:
    try:
        with zipfile.ZipFile(path) as archive:
            size_bytes = sum(info.file_size for info in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise DataError(f"{path}: not an .npz of samples ({error})") from error
    if size_bytes > _LARGEST_GOLDEN_BYTES:
        raise ResourceLimitError(f"{path}: unpacks to {size_bytes} bytes, more than {_LARGEST_GOLDEN_BYTES}")
    return Samples.load(path)


def _manifest_sum(content: bytes) -> bytes:
    return f"{hashlib.sha256(content).hexdigest()}  {MANIFEST}\n".encode()
