"""Freed buffers stay with the process for as long as asked, and not longer."""

import mmap
import platform
import subprocess
import sys

import pytest

from edgeai.quantization.reused_memory import reused_memory

MEASURE = """
import ctypes, os, resource
from edgeai.quantization.reused_memory import reused_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

def come_and_go(size=64 << 20):
    place = libc.malloc(size)
    ctypes.memset(place, 1, size)
    libc.free(place)

def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        come_and_go(1 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

come_and_go()
before = resident()
with reused_memory():
    come_and_go()
    within = resident()
after = resident()
come_and_go()
print(before, within, after, resident(), new_pages())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_memory_is_kept_meanwhile_and_goes_back() -> None:
    ran = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, timeout=120, check=True)
    before, within, after, later, new_pages = map(int, ran.stdout.split())
    assert within - before > 50
    assert after - before < 16 and later - before < 16
    assert new_pages < 10 * (1 << 20) // mmap.PAGESIZE, "50 buffers of a megabyte: most reuse the first one's pages"


def test_an_error_passes() -> None:
    with pytest.raises(ValueError, match="inside"), reused_memory():
        raise ValueError("inside")
