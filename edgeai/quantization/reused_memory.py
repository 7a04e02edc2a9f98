"""Buffers of megabytes that come and go with each run, in pages that stay.

glibc maps every large buffer anew and gives it back at once, and the kernel fills its pages with zeros each time: a
tenth of what calibration costs (mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD).
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT = (1 << 31) - 1  # mallopt takes an int
# Where glibc's thresholds end in a process that frees large buffers. Once set they no longer grow by themselves, and
# at the 128 KiB that they begin with every array would cost new pages from then on.
_AFTERWARDS = 32 << 20


@contextlib.contextmanager
def reused_memory() -> Iterator[None]:
    """Meanwhile the process keeps freed memory for its next buffers; then it gives back what it can.

    Does nothing where the C library is not glibc.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "mallopt"):
        yield
        return
    _set(libc, _KEPT, _KEPT)
    try:
        yield
    finally:
        _set(libc, _AFTERWARDS, 2 * _AFTERWARDS)
        libc.malloc_trim(0)


def _set(libc: ctypes.CDLL, mmap: int, trim: int) -> None:
    libc.mallopt(_MMAP_THRESHOLD, mmap)
    libc.mallopt(_TRIM_THRESHOLD, trim)
