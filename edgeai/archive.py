"""A zip in which no byte can change unseen: the archive comment is the sha256 of all the bytes before it.

Members are stored as they are, with one fixed date, so that the same content gives the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from edgeai.errors import IntegrityError, ResourceLimitError, UnsafePathError

REPACK = "it is damaged: copy it again, or pack it again"
_MOST_FILES = 1000
_SUM_BYTES = 64
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip can hold
_UNSAFE = re.compile(r'[\x00-\x1f/\\:*?"<>|]')  # what some file system reads as more than a name


def write_archive(path: Path, files: Iterable[tuple[str, Path]]) -> None:
    """Write a new zip at `path` with these (name, source) members, in this order."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, source in files:
            with open(source, "rb") as stream, archive.open(_member(name), "w", force_zip64=True) as member:
                shutil.copyfileobj(stream, member, 1 << 20)
        archive.comment = b"0" * _SUM_BYTES
    with open(path, "r+b") as stream:
        digest = _digest_before_comment(stream)
        stream.seek(-_SUM_BYTES, os.SEEK_END)
        stream.write(digest)


def unpack_archive(path: Path, directory: Path) -> None:
    """Write the members into `directory`, after checking every byte of the archive and every member's name.

    Raises IntegrityError if any byte changed or is missing, UnsafePathError for a member that is no plain file name,
    ResourceLimitError for compressed or overlapping members.
    """
    try:
        with open(path, "rb") as stream:
            if _digest_before_comment(stream) != stream.read():
                raise IntegrityError(f"{path}: the archive is not what its own checksum says", hint=REPACK)
            with zipfile.ZipFile(stream) as archive:
                members = archive.infolist()
                _refuse_bad(path, members)
                for member in members:
                    with archive.open(member) as source, open(directory / member.filename, "xb") as target:
                        shutil.copyfileobj(source, target, 1 << 20)
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise IntegrityError(f"{path}: the archive cannot be read ({error})") from error


def refuse_unsafe_name(name: str, where: str) -> None:
    """Raise UnsafePathError unless `name` is a plain file name on every system: no path, no device, no control."""
    if not name or name in (".", "..") or _UNSAFE.search(name) or name != name.strip() or len(name.encode()) > 255:
        raise UnsafePathError(f"{where}: {name!r} is not a plain file name", hint="a bundle is flat")


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    info.create_system = 3  # the same bytes from every system
    return info


def _digest_before_comment(stream: IO[bytes]) -> bytes:
    """Leaves `stream` at the comment."""
    digest, left = hashlib.sha256(), stream.seek(0, os.SEEK_END) - _SUM_BYTES
    stream.seek(0)
    while left > 0 and (block := stream.read(min(left, 1 << 20))):
        digest.update(block)
        left -= len(block)
    return digest.hexdigest().encode()


def _refuse_bad(path: Path, members: list[zipfile.ZipInfo]) -> None:
    if len(members) > _MOST_FILES:
        raise ResourceLimitError(f"{path}: {len(members)} files, more than {_MOST_FILES}")
    names = set[str]()
    for member in members:
        name = member.filename
        refuse_unsafe_name(name, str(path))
        if name in names:
            raise IntegrityError(f"{path}: {name} is in the archive twice")
        names.add(name)
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
            raise UnsafePathError(f"{path}: {name} is not a plain file", hint="a bundle holds plain files")
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise ResourceLimitError(f"{path}: {name} is compressed", hint="a bundle is stored as it is")
    # Stored members cannot unpack to more than the archive, unless they overlap.
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ResourceLimitError(f"{path}: the files claim more bytes than the archive has")
