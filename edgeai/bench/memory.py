"""How much memory this process holds and has held at most, as the kernel counts it."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def rss_bytes(status: Path = _STATUS) -> int | None:
    """Resident set size now; None where there is no /proc."""
    return _field("VmRSS", status)


def peak_rss_bytes(status: Path = _STATUS) -> int:
    """The highest resident set size so far.

    VmHWM belongs to this program alone; `ru_maxrss`, the fallback, keeps on Linux what the process held before
    it became this program (getrusage(2) is silent on it; the maximum survives execve).
    """
    peak = _field("VmHWM", status)
    if peak is not None:
        return peak
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _field(name: str, status: Path) -> int | None:
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)
