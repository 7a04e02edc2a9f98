"""RAPL as a directory of the kernel's files; a GPU's counter is a test of its own where there is a GPU."""

import ctypes
from pathlib import Path

import pytest

from edgeai.bench.energy import Rapl, find_meter


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, uj in (("intel-rapl:0", 5_000), ("intel-rapl:0:0", 1_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{uj}\n")
        (tmp_path / name / "max_energy_range_uj").write_text("10000\n")
    return tmp_path / "intel-rapl:0"


def test_packages_are_counted_and_not_their_parts(package: Path) -> None:
    meter, reason = find_meter((), package.parent)
    assert meter is not None
    assert reason == ""
    assert meter.source == "RAPL, 1 CPU package(s), idle power included"
    begin = meter.read()
    (package / "energy_uj").write_text("5700\n")
    end = meter.read()
    assert begin is not None and end is not None
    assert end - begin == 700


def test_a_counter_that_wraps_goes_on(package: Path) -> None:
    meter = Rapl((package,))
    (package / "energy_uj").write_text("200\n")
    assert meter.read() == 5_200
    (package / "energy_uj").unlink()
    assert meter.read() is None


def test_without_a_counter_there_is_a_reason(tmp_path: Path, package: Path) -> None:
    assert find_meter((), tmp_path / "none") == (
        None,
        f"no RAPL counters: nothing matches {tmp_path}/none/intel-rapl:*",
    )
    (package / "energy_uj").write_text("secret\n")
    assert find_meter((), package.parent)[1] == f"RAPL: {package} holds no number"
    (package / "energy_uj").unlink()
    (package / "energy_uj").mkdir()  # what root-only files are to a user, whoever runs this test
    assert find_meter((), package.parent)[1].startswith("RAPL: Is a directory: ")


def test_a_gpu_provider_is_not_charged_to_the_cpu(package: Path) -> None:
    meter, reason = find_meter(("cuda", "cpu"), package.parent)
    assert meter.source.startswith("NVML") if meter else reason.startswith("NVML: ")


def test_a_driver_that_lacks_the_function_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = ctypes.CDLL(None)  # what this process has loaded, and no NVML in it
    monkeypatch.setattr(ctypes, "CDLL", lambda name: everything)
    meter, reason = find_meter(("cuda",))
    assert meter is None
    assert reason.startswith("NVML: ") and "nvmlInit_v2" in reason
