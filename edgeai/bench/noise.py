"""What else the machine did meanwhile, so that a disturbed run can be told afterwards: evidence, then a verdict.

Sources: /proc/loadavg, /proc/pressure/cpu (Linux kernel docs, accounting/psi), /proc/stat (proc_stat(5)), cpufreq and
thermal_throttle in sysfs, and the cgroup's cpu.stat.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_ROOT = Path("/")
QUIET, NOISY, UNUSABLE = "quiet", "noisy", "unusable"
# Shares of the machine's time that others, or the host, may take.
_NOISY, _UNUSABLE = 0.05, 0.25
_SLOWED = 0.95


@dataclass(frozen=True)
class Noise:
    """One look at the machine. What cannot be read is None, and `reason` says why.

    `load_1min` is the mean number of runnable processes in the last minute. `pressure_avg10` is the share of the
    last ten seconds (in %) in which some task waited for a CPU, `pressure_total_us` the waiting since boot.
    Counters since boot: `busy_seconds` of all CPUs, `steal_seconds` that the host took from this virtual machine,
    `own_seconds` of this process and its children that have ended, `throttle_events` of hot cores,
    `cgroup_throttled_us` in which a quota stopped this group. `frequency_mhz` is the mean over the cores.
    """

    load_1min: float | None
    pressure_avg10: float | None
    pressure_total_us: int | None
    reason: str = ""
    busy_seconds: float | None = None
    steal_seconds: float | None = None
    own_seconds: float | None = None
    frequency_mhz: float | None = None
    governor: str | None = None
    throttle_events: int | None = None
    cgroup_throttled_us: int | None = None


@dataclass(frozen=True)
class Disturbance:
    """`verdict` is quiet, noisy or unusable; `evidence` is what speaks against the figures, one sentence each."""

    verdict: str
    evidence: tuple[str, ...]


def observe(root: Path = _ROOT) -> Noise:
    """Look now; costs some small reads."""
    reasons: list[str] = []

    def read(what: str, look: Callable[[], T]) -> T | None:
        try:
            return look()
        except (OSError, ValueError, LookupError) as error:
            reasons.append(f"{what}: {error}")
            return None

    cpus = root / "sys/devices/system/cpu"
    pressure = read("pressure", lambda: _fields(root / "proc/pressure/cpu"))
    times = read("CPU times", lambda: _cpu_seconds(root / "proc/stat"))
    own = os.times()
    throttled = read("cgroup", lambda: _cgroup_throttled_us(root / "sys/fs/cgroup"))
    return Noise(
        load_1min=read("load average", lambda: os.getloadavg()[0]),
        pressure_avg10=read("pressure", lambda: float(pressure["avg10"])) if pressure else None,
        pressure_total_us=read("pressure", lambda: int(pressure["total"])) if pressure else None,
        busy_seconds=times[0] if times else None,
        steal_seconds=times[1] if times else None,
        own_seconds=sum(own[:4]),
        frequency_mhz=read("frequency", lambda: _mean(cpus, "cpu[0-9]*/cpufreq/scaling_cur_freq") / 1000),
        governor=read("governor", lambda: (cpus / "cpu0/cpufreq/scaling_governor").read_text().strip()),
        throttle_events=read("throttling", lambda: _sum(cpus, "cpu[0-9]*/thermal_throttle/core_throttle_count")),
        cgroup_throttled_us=throttled,
        reason="; ".join(dict.fromkeys(reasons)),
    )


def judge(before: Noise, after: Noise, *, seconds: float, cores: int) -> Disturbance:
    """What the two looks say about the `seconds` between them, on a machine where `cores` could be used."""
    evidence: list[str] = []
    worst = 0.0
    available = max(seconds * cores, 1e-9)
    steal = _change(before.steal_seconds, after.steal_seconds)
    busy, own = _change(before.busy_seconds, after.busy_seconds), _change(before.own_seconds, after.own_seconds)
    shares = {
        "other processes used {:.0%} of the cores' time": None if busy is None or own is None else busy - own,
        "the host took {:.0%} of the cores' time from this virtual machine": steal,
        "the cgroup's quota stopped the process for {:.0%} of the cores' time": _scaled(
            _change(before.cgroup_throttled_us, after.cgroup_throttled_us), 1e-6
        ),
    }
    for sentence, lost in shares.items():
        share = (lost or 0.0) / available
        if share > _NOISY:
            evidence.append(sentence.format(share))
            worst = max(worst, share)
    if events := _change(before.throttle_events, after.throttle_events):
        evidence.append(f"cores were throttled {events:.0f} times because of heat")
        worst = max(worst, _NOISY * 2)
    if before.frequency_mhz and after.frequency_mhz and after.frequency_mhz < _SLOWED * before.frequency_mhz:
        evidence.append(f"the clock fell from {before.frequency_mhz:.0f} to {after.frequency_mhz:.0f} MHz")
        worst = max(worst, _NOISY * 2)
    if before.load_1min is not None and before.load_1min > cores / 2:
        evidence.append(f"the machine was busy before the start (load {before.load_1min:.1f} on {cores} cores)")
        worst = max(worst, _NOISY * 2)
    verdict = UNUSABLE if worst > _UNUSABLE else NOISY if evidence else QUIET
    return Disturbance(verdict, tuple(evidence))


def _change(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _fields(path: Path) -> dict[str, str]:
    # some avg10=0.17 avg60=0.11 avg300=0.11 total=3603546
    return dict(word.split("=", 1) for word in path.read_text().splitlines()[0].split()[1:])


def _cpu_seconds(path: Path) -> tuple[float, float]:
    """Busy (user, nice, system, irq, softirq) and stolen seconds of all CPUs; guest time is inside user time."""
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, path.read_text().split()[1:9])
    tick = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / tick, steal / tick


def _cgroup_throttled_us(root: Path) -> int:
    for path, key, unit in (("cpu.stat", "throttled_usec", 1), ("cpu/cpu.stat", "throttled_time", 1000)):
        if (root / path).exists():
            fields = dict(line.split() for line in (root / path).read_text().splitlines())
            return int(fields[key]) // unit
    raise OSError(f"no cpu.stat in {root}")


def _sum(root: Path, pattern: str) -> int:
    values = [int(path.read_text()) for path in root.glob(pattern)]
    if not values:
        raise OSError(f"nothing matches {root}/{pattern}")
    return sum(values)


def _mean(root: Path, pattern: str) -> float:
    return _sum(root, pattern) / len(list(root.glob(pattern)))
