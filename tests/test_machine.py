import os
from dataclasses import replace
from pathlib import Path

import pytest

from edgeai.machine import machine, usable_cores


def test_this_machine_is_described_from_its_own_files() -> None:
    here = machine()
    assert 1 <= here.cores <= len(os.sched_getaffinity(0))
    assert here.memory_bytes is not None
    assert here.memory_bytes > 10**8
    assert "numpy" in here.versions
    flags = set(Path("/proc/cpuinfo").read_text().split())
    assert set(here.features) <= flags
    assert ("avx2" in flags) == ("avx2" in here.features)


@pytest.mark.parametrize(
    ("architecture", "features", "expected"),
    [
        ("x86_64", ("avx", "avx2"), False),
        ("x86_64", ("avx2", "avx512f"), False),
        ("x86_64", ("avx2", "avx512_vnni"), True),
        ("x86_64", ("avx2", "avx_vnni"), True),
        ("aarch64", ("asimd",), True),
    ],
)
def test_which_machines_saturate(architecture: str, features: tuple[str, ...], expected: bool) -> None:
    assert replace(machine(), architecture=architecture, features=features).has_int8_dot_product is expected


@pytest.mark.parametrize(
    ("path", "text", "cores"),
    [
        ("sys/fs/cgroup/cpu.max", "100000 100000", 1),
        ("sys/fs/cgroup/cpu.max", "50000 100000", 1),
        ("sys/fs/cgroup/cpu.max", "max 100000", None),
    ],
)
def test_the_cgroup_quota_cuts_the_cores(tmp_path: Path, path: str, text: str, cores: int | None) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(text)
    assert usable_cores(tmp_path) == (cores or len(os.sched_getaffinity(0)))


def test_the_older_cgroup_quota_counts_too(tmp_path: Path) -> None:
    (tmp_path / "sys/fs/cgroup/cpu").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_quota_us").write_text("100000")
    (tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_period_us").write_text("100000")
    assert usable_cores(tmp_path) == 1
    (tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_quota_us").write_text("-1")
    assert usable_cores(tmp_path) == len(os.sched_getaffinity(0))
