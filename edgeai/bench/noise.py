"""What else ran meanwhile: load average and CPU pressure, so that a disturbed run can be told afterwards."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_PRESSURE = Path("/proc/pressure/cpu")


@dataclass(frozen=True)
class Noise:
    """One look at the machine. What cannot be read is None, and `reason` says why.

    `load_1min` is the mean number of runnable processes in the last minute. `pressure_avg10` is the share of the
    last ten seconds (in %) in which some task waited for a CPU, `pressure_total_us` the waiting since boot
    (Linux kernel docs, accounting/psi).
    """

    load_1min: float | None
    pressure_avg10: float | None
    pressure_total_us: int | None
    reason: str = ""


def observe(pressure: Path = _PRESSURE) -> Noise:
    """Look now; costs two small reads."""
    reasons = []
    try:
        load = os.getloadavg()[0]
    except OSError as error:
        load = None
        reasons.append(f"load average: {error}")
    avg10, total = None, None
    try:
        # some avg10=0.17 avg60=0.11 avg300=0.11 total=3603546
        some = pressure.read_text().splitlines()[0].split()[1:]
        fields = dict(word.split("=", 1) for word in some)
        avg10, total = float(fields["avg10"]), int(fields["total"])
    except (OSError, IndexError, KeyError, ValueError) as error:
        reasons.append(f"{pressure}: {error}")
    return Noise(load, avg10, total, "; ".join(reasons))
