import resource
import sys
from pathlib import Path

import pytest

from edgeai.bench.memory import peak_rss_bytes, rss_bytes


def test_the_kernel_s_figures_are_bytes(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n")
    assert peak_rss_bytes(status) == 2 * 2**20
    assert rss_bytes(status) == 2**20


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
def test_without_proc_getrusage_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, unit: int
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert most * unit <= peak_rss_bytes(tmp_path / "missing") <= most * unit * 1.1
    assert rss_bytes(tmp_path / "missing") is None


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_this_process_has_a_peak_above_its_size() -> None:
    now = rss_bytes()
    assert now is not None
    assert 2**20 < now <= peak_rss_bytes() * 1.1
