"""A machine is a directory of the kernel's files; the real one is only asked whether it answers at all."""

import os
from pathlib import Path

import pytest

from edgeai.bench.noise import NOISY, QUIET, UNUSABLE, Noise, judge, observe

TICK = os.sysconf("SC_CLK_TCK")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(os, "getloadavg", lambda: (0.4, 9.0, 9.0))
    files = {
        "proc/pressure/cpu": "some avg10=1.25 avg60=0.11 avg300=0.11 total=3603546\nfull avg10=9.00 total=9\n",
        "proc/stat": f"cpu  {3 * TICK} {TICK} {2 * TICK} 900 800 0 {TICK} {5 * TICK} 77 88\ncpu0 1 1\n",
        "sys/fs/cgroup/cpu.stat": "usage_usec 7\nnr_throttled 3\nthrottled_usec 4200\n",
    }
    for core, (mhz, events) in enumerate([(3_000_000, 2), (2_000_000, 5)]):
        files[f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq"] = f"{mhz}\n"
        files[f"sys/devices/system/cpu/cpu{core}/thermal_throttle/core_throttle_count"] = f"{events}\n"
        files[f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor"] = "powersave\n"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_kernel_s_files_are_read(root: Path) -> None:
    seen = observe(root)
    assert (seen.load_1min, seen.pressure_avg10, seen.pressure_total_us) == (0.4, 1.25, 3603546)
    assert (seen.busy_seconds, seen.steal_seconds) == (7.0, 5.0)
    assert (seen.frequency_mhz, seen.governor, seen.throttle_events) == (2500.0, "powersave", 7)
    assert seen.cgroup_throttled_us == 4200
    assert seen.own_seconds is not None and seen.own_seconds > 0
    assert seen.reason == ""


def test_an_older_cgroup_counts_nanoseconds(root: Path) -> None:
    (root / "sys/fs/cgroup/cpu.stat").unlink()
    (root / "sys/fs/cgroup/cpu").mkdir()
    (root / "sys/fs/cgroup/cpu/cpu.stat").write_text("nr_throttled 3\nthrottled_time 4200000\n")
    assert observe(root).cgroup_throttled_us == 4200


@pytest.mark.parametrize("text", [None, "", "some avg10=\n", "some avg60=1.0 total=1\n"])
def test_what_cannot_be_read_is_none_with_its_reason(root: Path, text: str | None) -> None:
    path = root / "proc/pressure/cpu"
    path.unlink()
    if text is not None:
        path.write_text(text)
    seen = observe(root)
    assert seen.pressure_avg10 is None
    assert seen.reason.startswith("pressure: ")
    assert seen.load_1min == 0.4


def test_a_machine_without_any_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unobtainable() -> tuple[float, float, float]:
        raise OSError("unobtainable")

    monkeypatch.setattr(os, "getloadavg", unobtainable)
    seen = observe(tmp_path)
    assert (seen.load_1min, seen.busy_seconds, seen.frequency_mhz, seen.cgroup_throttled_us) == (None,) * 4
    for what in ("load average: unobtainable", "pressure: ", "CPU times: ", "frequency: ", "throttling: ", "cgroup: "):
        assert what in seen.reason
    assert judge(seen, seen, seconds=10, cores=2).verdict == QUIET, "what is not known is no evidence"


def test_this_machine_answers() -> None:
    assert observe().own_seconds is not None


BEFORE = Noise(
    0.1, 0.0, 0, busy_seconds=100.0, steal_seconds=1.0, own_seconds=50.0, frequency_mhz=3000.0,
    throttle_events=0, cgroup_throttled_us=0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "verdict", "evidence"),
    [
        ({}, QUIET, ""),
        ({"busy_seconds": 115.0, "own_seconds": 65.0}, QUIET, ""),  # all of it was ours
        ({"busy_seconds": 118.0, "own_seconds": 65.0}, NOISY, "other processes used 15% of the cores' time"),
        ({"busy_seconds": 120.0}, UNUSABLE, "other processes used 100% of the cores' time"),
        ({"steal_seconds": 3.0}, NOISY, "the host took 10% of the cores' time from this virtual machine"),
        ({"cgroup_throttled_us": 6_000_000}, UNUSABLE, "the cgroup's quota stopped the process for 30%"),
        ({"throttle_events": 3}, NOISY, "cores were throttled 3 times because of heat"),
        ({"frequency_mhz": 2400.0}, NOISY, "the clock fell from 3000 to 2400 MHz"),
        ({"frequency_mhz": 2950.0}, QUIET, ""),
    ],
)
def test_ten_seconds_on_two_cores_are_judged(changes: dict[str, float], verdict: str, evidence: str) -> None:
    found = judge(BEFORE, Noise(**{**vars(BEFORE), **changes}), seconds=10, cores=2)
    assert found.verdict == verdict
    assert "; ".join(found.evidence).startswith(evidence)
    assert bool(found.evidence) == bool(evidence)


def test_load_before_the_start_is_evidence() -> None:
    busy = Noise(**{**vars(BEFORE), "load_1min": 1.7})
    found = judge(busy, busy, seconds=10, cores=2)
    assert found.verdict == NOISY
    assert found.evidence == ("the machine was busy before the start (load 1.7 on 2 cores)",)
