"""Memory in huge pages, where Linux gives them.

A run reads all weights, and the processor has to look up where each page of them lies: in pages of 2 MiB 512 times less
often than in the usual ones of 4 KiB. Most systems give huge pages to those alone who ask for them, and ONNX Runtime
does not ask (Linux, Documentation/admin-guide/mm/transhuge.rst: `madvise`).
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from functools import cache
from pathlib import Path

_LOG = logging.getLogger("edgeai")
_SIZE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
_MAPS = Path("/proc/self/maps")
# madvise(2), since Linux 6.1: at once, and whatever transparent_hugepage/enabled says.
_MADV_COLLAPSE = 25

Span = tuple[int, int]
"""Addresses, the end not included."""


def page_bytes() -> int:
    """Of one huge page; 0 where the system has none."""
    try:
        return int(_SIZE.read_text(encoding="ascii")) if sys.platform == "linux" else 0
    except (OSError, ValueError):
        return 0


def move_into_huge_pages() -> None:
    """Move what this process has in memory, whoever it belongs to; if nothing could be moved, the log says why.

    Which part of it is a session's nobody knows: allocators give out again what others gave back. The contents stay as
    they are. It takes about as long as copying them; what was moved before takes no time.
    """
    size = page_bytes()
    if not size:
        _LOG.warning("huge_pages: this system has none; memory stays in small pages")
        return
    errors = [_collapse(page, size) for span in _anonymous() for page in _pages(span, size)]
    if errors and all(errors):
        _LOG.warning("huge_pages: the kernel gave none (%s); memory stays in small pages", os.strerror(errors[0]))


def _anonymous() -> list[Span]:
    """What is writable, private and of no file: the heap and what was allocated beside it."""
    found = []
    for line in _MAPS.read_text(encoding="utf-8", errors="replace").splitlines():
        span, access, _, _, inode, *name = line.split(maxsplit=5)
        if access == "rw-p" and inode == "0" and (not name or name[0] == "[heap]"):
            begin, end = (int(address, 16) for address in span.split("-"))
            found.append((begin, end))
    return found


def _pages(span: Span, size: int) -> range:
    """Where the huge pages begin that lie wholly within `span`."""
    begin, end = span
    return range(-(-begin // size) * size, end // size * size, size)


def _collapse(address: int, size: int) -> int:
    """0, or the error's number: of memory that nothing was written to yet, for one."""
    if _libc().madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), _MADV_COLLAPSE) == 0:
        return 0
    return ctypes.get_errno()


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
