"""What is found on a machine, and the command that mends each finding."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from edgeai import doctor
from edgeai.doctor import Diagnosis, Finding, examine
from edgeai.errors import MissingDependencyError
from edgeai.machine import machine, memory_limit_bytes
from edgeai.runtime.providers import PROVIDERS, reason
from edgeai.runtime.providers.wheels import Wheel


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEAI_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)


def look(subject: str, root: Path = Path("/nowhere")) -> Finding:
    return next(finding for finding in examine(root=root).findings if finding.subject == subject)


def test_everything_is_looked_at_and_everything_that_is_wrong_can_be_mended(capfd: pytest.CaptureFixture[str]) -> None:
    found = examine()
    assert found.machine == machine()
    subjects = [finding.subject for finding in found.findings]
    assert {"cpu", "cores", "memory", "python", "onnxruntime", "telemetry", "cache", *PROVIDERS} <= set(subjects)
    for finding in found.findings:
        assert finding.text
        assert bool(finding.remedy) == (finding.level != "ok"), finding
    assert Finding("cpu", "ok", "runs (CPUExecutionProvider)") in found.findings
    for name in PROVIDERS:
        if why := reason(name):
            assert why in (finding.text for finding in found.findings)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(("features", "level"), [(("avx2",), "note"), (("avx2", "avx512_vnni"), "ok")])
def test_saturating_products_are_noted(monkeypatch: pytest.MonkeyPatch, features: tuple[str, ...], level: str) -> None:
    here = dataclasses.replace(machine(), architecture="x86_64", features=features)
    monkeypatch.setattr(doctor, "machine", lambda: here)
    monkeypatch.setattr(doctor, "_providers", lambda: [])
    found = look("cpu")
    assert found.level == level
    assert ("x64quantprecision" in found.remedy) == (level == "note")


@pytest.mark.parametrize(
    ("files", "subject", "words"),
    [
        ({"cpu.max": "150000 100000"}, "cores", "the cgroup's quota is 1.5 cores"),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, "cores", "quota is 0.5 cores"),
        ({"memory.max": "268435456"}, "memory", "the cgroup's limit is 0.27 GB"),
        ({"memory/memory.limit_in_bytes": "268435456"}, "memory", "the cgroup's limit is 0.27 GB"),
    ],
)
def test_limits_of_the_cgroup_are_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], subject: str, words: str
) -> None:
    monkeypatch.setattr(doctor, "_providers", lambda: [])
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    found = look(subject, tmp_path)
    assert found.level == "note"
    assert words in found.text
    assert "SessionSettings(" in found.remedy


@pytest.mark.parametrize("text", ["max", "9223372036854771712", ""])
def test_no_limit_is_none(tmp_path: Path, text: str) -> None:
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert memory_limit_bytes(tmp_path) is None


@pytest.mark.parametrize(
    ("wheels", "level", "remedy"),
    [
        ((Wheel("onnxruntime", onnxruntime.__version__),), "ok", ""),
        (
            (Wheel("onnxruntime", "1.31.1"), Wheel("onnxruntime-gpu", "1.31.1")), "problem",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu",
        ),
        ((Wheel("onnxruntime", "1.2.3"),), "problem", "pip install --force-reinstall --no-deps onnxruntime==1.2.3"),
    ],
)  # fmt: skip
def test_wheels_that_do_not_fit_are_a_problem(
    monkeypatch: pytest.MonkeyPatch, wheels: Any, level: str, remedy: str
) -> None:
    monkeypatch.setattr(doctor, "installed_wheels", lambda: wheels)
    monkeypatch.setattr(doctor, "fault", lambda name: None)
    monkeypatch.setattr(doctor, "runs", lambda name, *, fresh: None)
    found = look("onnxruntime")
    assert (found.level, found.remedy) == (level, remedy)
    assert examine().healthy == (level == "ok")


def test_an_old_version_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", "1.24.1")
    monkeypatch.setattr(doctor, "installed_wheels", lambda: (Wheel("onnxruntime-openvino", "1.24.1"),))
    monkeypatch.setattr(doctor, "_providers", lambda: [])
    found = look("onnxruntime")
    assert (found.level, found.remedy) == ("note", "pip install 'onnxruntime-openvino>=1.31'")


@pytest.mark.parametrize(("version", "level"), [("1.31rc1", "ok"), ("1.30rc2", "note"), ("2.0.dev3+gpu", "ok")])
def test_a_version_may_be_more_than_numbers(monkeypatch: pytest.MonkeyPatch, version: str, level: str) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", version)
    monkeypatch.setattr(doctor, "installed_wheels", lambda: (Wheel("onnxruntime", version),))
    monkeypatch.setattr(doctor, "_providers", lambda: [])
    assert look("onnxruntime").level == level


@pytest.mark.parametrize("wheels", [(), (Wheel("onnxruntime", "1"), Wheel("onnxruntime-gpu", "1"))])
def test_without_onnxruntime_the_rest_is_still_said(monkeypatch: pytest.MonkeyPatch, wheels: Any) -> None:
    def missing() -> Any:
        raise MissingDependencyError("ONNX Runtime cannot be imported: no module", hint="pip install 'edgeai[cpu]'")

    monkeypatch.setattr(doctor, "onnxruntime", missing)
    monkeypatch.setattr(doctor, "installed_wheels", lambda: wheels)
    found = examine()
    problem = next(finding for finding in found.findings if finding.level == "problem")
    assert problem.subject == "onnxruntime"
    assert problem.remedy.startswith("pip uninstall -y onnxruntime onnxruntime-gpu" if wheels else "pip install")
    assert not found.healthy
    assert not {finding.subject for finding in found.findings} & {"cuda", "tensorrt"}


def test_telemetry_that_the_user_switched_on_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_providers", lambda: [])
    assert look("telemetry").level == "ok"
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    found = look("telemetry")
    assert (found.level, found.remedy) == ("note", "unset ORT_DISABLE_TELEMETRY, and edgeai switches it off")


def test_a_cache_that_cannot_be_written_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_providers", lambda: [])
    (tmp_path / "cache").touch()
    found = look("cache")
    assert (found.level, "EDGEAI_CACHE" in found.remedy) == ("note", True)


def test_a_gpu_that_the_wheel_cannot_use_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802 - the driver's own name
            version._obj.value = 13000
            return 0

    monkeypatch.setattr(doctor, "_providers", lambda: [])
    monkeypatch.setattr(doctor.cuda_driver, "driver", Driver)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    found = look("gpu")
    assert "an NVIDIA driver for CUDA 13.0" in found.text
    assert "onnxruntime-gpu[cuda,cudnn]" in found.remedy


def test_a_provider_that_loads_and_runs_nothing_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "fault", lambda name: None)
    why = {"cuda": "it ends the process that loads it (SIGSEGV)"}
    monkeypatch.setattr(doctor, "runs", lambda name, *, fresh: why.get(name))
    found = look("cuda")
    assert (found.level, "SIGSEGV" in found.text) == ("problem", True)


def test_health_is_the_absence_of_problems() -> None:
    ok, note, problem = (Finding("x", level, "t") for level in ("ok", "note", "problem"))  # type: ignore[arg-type]
    assert Diagnosis(machine(), (ok, note)).healthy
    assert not Diagnosis(machine(), (ok, problem)).healthy
    assert sys.version.split()[0] in look("python").text
