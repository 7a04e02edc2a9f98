"""Files that are there whole or not at all: write aside, fsync, rename.

A reader never sees a half-written file at a final path, whatever happens to the writer.
What a killed writer leaves beside the target is recognised by its name and removed by the next one.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from edgeai.errors import ExistsError, StorageError

_MARK = ".edgeai-partial-"
_MAPPED_BYTES = 16 << 20


@contextlib.contextmanager
def atomic_file(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on a clean exit it becomes `path`, otherwise it vanishes.

    Raises ExistsError if `path` is there and `overwrite` is false, StorageError if the disk refuses or a directory
    stands there.
    """
    refuse_directory(path)
    with _aside(Path(path), overwrite) as temporary:
        yield temporary
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())


@contextlib.contextmanager
def atomic_dir(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Like `atomic_file`, for a directory: the yielded directory exists and is empty."""
    with _aside(Path(path), overwrite) as temporary:
        temporary.mkdir()
        yield temporary
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                with open(file, "rb") as stream:
                    os.fsync(stream.fileno())


@contextlib.contextmanager
def atomic_files(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty directory beside `path`; on a clean exit its file of that name becomes `path`.

    Whatever else was put into the directory moves beside `path` first, so that a reader of `path` finds it there.
    """
    with _aside(Path(path), overwrite, _place_files) as temporary:
        temporary.mkdir()
        yield temporary
        for file in temporary.iterdir():
            with open(file, "rb") as stream:
                os.fsync(stream.fileno())


@contextlib.contextmanager
def _aside(path: Path, overwrite: bool, place: Callable[[Path, Path], None] | None = None) -> Iterator[Path]:
    refuse_existing(path, overwrite)
    # The lock, not the process id, says whether a partial file's writer lives: ids are reused and namespaced.
    temporary = path.with_name(f"{path.name}{_MARK}{uuid.uuid4().hex[:12]}")
    lock = temporary.with_name(temporary.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        with open(lock, "w") as held:
            try:
                lock_file(held)
                yield temporary
                refuse_existing(path, overwrite)
                (place or _replace)(temporary, path)
            finally:
                _remove(temporary)
                lock.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error}") from error


def _replace(temporary: Path, path: Path) -> None:
    if path.is_dir() and not path.is_symlink():  # rename cannot replace a directory that has files
        old = temporary.with_name(temporary.name + ".old")
        os.rename(path, old)
        os.rename(temporary, path)
        _remove(old)
    else:
        os.replace(temporary, path)
    _sync(path.parent)


def _place_files(temporary: Path, path: Path) -> None:
    for file in sorted(temporary.iterdir(), key=lambda file: file.name == path.name):
        os.replace(file, path.with_name(file.name))
    _sync(path.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_stale(path: Path) -> None:
    for lock in path.parent.glob(f"{path.name}{_MARK}*.lock"):
        try:
            held = open(lock)  # noqa: SIM115 - entered below, once it is known to exist
        except FileNotFoundError:  # its writer has just finished
            continue
        with held:
            try:
                lock_file(held, wait=False)
            except BlockingIOError:
                continue
            partial = lock.with_suffix("")
            _remove(partial)
            _remove(partial.with_name(partial.name + ".old"))
            lock.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def refuse_existing(path: str | Path, overwrite: bool) -> None:
    """Raise ExistsError if `path` is there and may not be replaced, StorageError if nothing can be written there.

    Call it before long work starts. Missing directories are made later; the nearest that is there must let them.
    """
    if not overwrite and os.path.lexists(path):
        raise ExistsError(f"{path} already exists", hint="add --overwrite (overwrite=True) to replace it")
    nearest = next(parent for parent in Path(path).absolute().parents if os.path.lexists(parent))
    if not nearest.is_dir():
        raise StorageError(f"cannot write {path}: {nearest} is not a directory")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise StorageError(f"cannot write {path}: {nearest} is not writable", hint="choose another place")


def refuse_directory(path: str | Path) -> None:
    """Raise StorageError if a directory stands where a file is to be: to overwrite is not to delete a tree."""
    if os.path.isdir(path):
        raise StorageError(f"cannot write {path}: it is a directory", hint="name a file in it")


def lock_file(stream: IO[Any], *, wait: bool = True) -> None:
    """Lock an open file for this process until it is closed; the kernel frees it if we die.

    Raises BlockingIOError if somebody else holds it and we do not `wait`, StorageError where there are no such locks.
    """
    try:
        import fcntl
    except ImportError as error:  # Windows: models run there all the same
        raise StorageError("this system has no file locks (fcntl), without which edgeai writes no files") from error
    fcntl.flock(stream, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_partial(path: Path) -> bool:
    """Is this the leftover (or the work in progress) of a writer, not a file that anyone should read?"""
    return _MARK in path.name


def atomic_text(path: str | Path, text: str, *, overwrite: bool = False) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with atomic_file(path, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256(path: str | Path) -> str:
    """Hex digest of a file's bytes.

    They are mapped piece by piece: a read would copy them first, which whoever works beside this pays for too. The
    mapping is private, which more file systems know than a shared one. A file that is cut short meanwhile has the
    digest of what was still there.
    """
    found = hashlib.sha256()
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        for begin in range(0, size, _MAPPED_BYTES):
            length = min(_MAPPED_BYTES, size - begin)
            try:
                piece = mmap.mmap(stream.fileno(), length, access=mmap.ACCESS_COPY, offset=begin)
            except ValueError:  # it ends before this piece does
                break
            with piece:
                found.update(piece)
    return found.hexdigest()


def cache_dir() -> Path:
    """Where downloads and other things that can be made again are kept (`EDGEAI_CACHE`, else the XDG cache)."""
    if named := os.environ.get("EDGEAI_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeai"
