"""Which shared libraries a library needs and this machine does not have.

ONNX Runtime itself would only log that, and then run on the CPU. The library is not opened but read: an execution
provider that is loaded before ONNX Runtime has prepared for it keeps a null pointer to its host.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

_SECTION_DYNAMIC, _TAG_NEEDED = 6, 1


def missing_libraries(library: Path) -> list[str]:
    """Names of direct dependencies that the dynamic linker cannot load, in order.

    A library that is itself no 64-bit little-endian ELF file (System V ABI, chapters 4 and 5) counts as missing.
    """
    try:
        names = list(needed_libraries(library))
    except (OSError, ValueError, IndexError, OverflowError, struct.error):
        return [library.name]
    return [name for name in names if not (library.parent / name).exists() and not _loads(name)]


def needed_libraries(library: Path) -> Iterator[str]:
    """The DT_NEEDED entries. Bytes that are no such library give whatever reading beyond them gives."""
    with open(library, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:6] != b"\x7fELF\x02\x01":
            raise ValueError(f"{library} is not a 64-bit little-endian ELF file")
        (sections,) = struct.unpack_from("<Q", data, 0x28)
        size, count = struct.unpack_from("<HH", data, 0x3A)
        headers = [struct.unpack_from("<IIQQQQI", data, sections + i * size) for i in range(count)]
        for _, kind, _, _, offset, length, link in headers:
            if kind == _SECTION_DYNAMIC:
                strings = headers[link][4]
                for tag, value in struct.iter_unpack("<qQ", data[offset : offset + length]):
                    if tag == _TAG_NEEDED:
                        start = strings + value
                        yield data[start : data.find(b"\0", start)].decode()


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True
