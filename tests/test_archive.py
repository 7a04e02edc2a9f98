"""Archives made by someone else: whole by their checksum, and still not trusted."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeai.archive import refuse_unsafe_name, unpack_archive, write_archive
from edgeai.errors import EdgeAIError, IntegrityError, ResourceLimitError, UnsafePathError


def sealed(path: Path, content: bytes) -> Path:
    """The zip with a checksum in its comment that is right."""
    end = content.rindex(b"PK\x05\x06")
    content = content[: end + 20] + struct.pack("<H", 64)
    path.write_bytes(content + hashlib.sha256(content).hexdigest().encode())
    return path


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", method) as archive:
        warnings.simplefilter("ignore")  # of duplicate names
        for name, content in members:
            archive.writestr(name, content)
    return stream.getvalue()


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info


def overlapping() -> bytes:
    """Many directory entries for one stored member (after Fifield, 2019, "A better zip bomb")."""
    content = zipped(("a", bytes(5000)))
    end = content.rindex(b"PK\x05\x06")
    start = content.index(b"PK\x01\x02")
    entry = content[start:end]
    entries = b"".join(entry[:46] + bytes([97 + i]) + entry[47:] for i in range(20))
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 20, 20, len(entries), start, 0)
    return content[:start] + entries + tail


@pytest.mark.parametrize(
    ("content", "error", "reason"),
    [
        (lambda: zipped(("../up", b"")), UnsafePathError, r"'\.\./up' is not a plain file name"),
        (lambda: zipped(("/etc/passwd", b"")), UnsafePathError, "'/etc/passwd' is not a plain"),
        (lambda: zipped(("folder/", b"")), UnsafePathError, "'folder/' is not a plain"),
        (lambda: zipped((link("l"), b"/etc/passwd")), UnsafePathError, "l is not a plain file"),
        (lambda: zipped(("a", b"1"), ("a", b"2")), IntegrityError, "a is in the archive twice"),
        (lambda: zipped(("a", bytes(10_000_000)), method=zipfile.ZIP_DEFLATED), ResourceLimitError, "a is compressed"),
        (lambda: zipped(*((f"f{i}", b"") for i in range(1001))), ResourceLimitError, "1001 files, more than 1000"),
        (overlapping, ResourceLimitError, "claim more bytes than the archive has"),
        (lambda: zipped(("a", b"1")).replace(b"PK\x01\x02", b"PK\x01\x03"), IntegrityError, "cannot be read"),
    ],
)
def test_a_whole_archive_may_still_be_refused(
    tmp_path: Path, content: Callable[[], bytes], error: type[EdgeAIError], reason: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(error, match=reason):
        unpack_archive(sealed(tmp_path / "a.zip", content()), out)
    assert list(out.iterdir()) == []
    assert not (tmp_path / "up").exists()


def test_a_member_whose_own_checksum_is_wrong_is_refused(tmp_path: Path) -> None:
    content = bytearray(zipped(("a", b"12345678")))
    content[content.index(b"12345678")] ^= 1
    with pytest.raises(IntegrityError, match="cannot be read .Bad CRC"):
        unpack_archive(sealed(tmp_path / "a.zip", bytes(content)), tmp_path)


def test_what_was_written_comes_back_with_no_trace_of_the_clock(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"content" * 1000)
    write_archive(tmp_path / "a.zip", [("one", tmp_path / "source"), ("two", tmp_path / "source")])
    out = tmp_path / "out"
    out.mkdir()
    unpack_archive(tmp_path / "a.zip", out)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == dict.fromkeys(("one", "two"), b"content" * 1000)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


@pytest.mark.parametrize("size", [0, 10, 64, 100])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / "a.zip").write_bytes(bytes(size))
    with pytest.raises(IntegrityError, match=r"a\.zip: the archive is not what its own checksum says"):
        unpack_archive(tmp_path / "a.zip", tmp_path)
    with pytest.raises(IntegrityError, match="cannot be read"):
        unpack_archive(tmp_path / "missing.zip", tmp_path)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a:b", "nul\0", "tab\t", " a", "a ", "x" * 256, "a*"])
def test_unsafe_names(name: str) -> None:
    with pytest.raises(UnsafePathError, match="is not a plain file name"):
        refuse_unsafe_name(name, "bundle")


def test_safe_names() -> None:
    for name in ("model.onnx", "a-b_c.1.data", "日本.txt", ".hidden"):
        refuse_unsafe_name(name, "bundle")
