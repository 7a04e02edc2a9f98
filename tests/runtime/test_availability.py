"""What is missing is said exactly, with the command that mends it, without a word from ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

import edgeai
from edgeai.errors import ProviderError
from edgeai.runtime import opening
from edgeai.runtime.preflight import Missing
from edgeai.runtime.providers import (
    PROVIDERS,
    availability,
    available,
    fault,
    plugin,
    probing,
    reason,
    refuse_unavailable,
    runs,
)
from edgeai.runtime.providers.wheels import Wheel, installed_wheels, wheel_fault

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ELF files are Linux's")
without_cuda = pytest.mark.skipif(reason("cuda") is None, reason="needs a machine where CUDA does not load")
Package = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("EDGEAI_CACHE", str(tmp_path / "cache"))
    probing._answers.clear()
    yield
    probing._answers.clear()


def ask(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, **environment},
    )  # fmt: skip


@without_cuda
@pytest.mark.parametrize(
    ("ep", "words"),
    [
        ("cuda", "libcublasLt.so.13 (CUDA 13): cannot open shared object file: No such file or directory"),
        ("tensorrt", "libnvinfer.so.10 (TensorRT 10)"),
    ],
)
def test_case_14_a_provider_that_is_not_there_is_refused_with_its_library_and_nothing_on_stdout(
    double: Path, ep: str, words: str
) -> None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("the installed onnxruntime is built without CUDA")
    code = f"""
import sys, edgeai
from edgeai.errors import ProviderError
try: edgeai.load({str(double)!r}, ep={ep!r})
except ProviderError as error: sys.stderr.write(str(error))
else: raise SystemExit("it was opened")
"""
    done = ask(code)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith(f"execution provider {ep} does not run here: lib")
    assert words in done.stderr
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]'" in done.stderr


@without_cuda
def test_case_14_what_was_passed_over_for_a_fallback_is_said(double: Path) -> None:
    with edgeai.load(double, ep="tensorrt", fallback=("cuda", "cpu")) as session:
        assert session.providers == ("cpu",)
        assert session.placement.summary == "cpu 1/1 (100%)"
        assert [sentence.split()[2] for sentence in session.skipped] == ["tensorrt", "cuda"]


@without_cuda
def test_case_14_a_measurement_never_calls_the_cpu_cuda(double: Path) -> None:
    from edgeai.benchmarking import bench

    with pytest.raises(ProviderError, match="cuda does not run here"):
        bench([str(double)], ep=["cuda"])


def test_the_cpu_always_runs_and_the_rest_says_why_not(capfd: pytest.CaptureFixture[str]) -> None:
    found = available()
    assert found["cpu"] is None
    assert found.keys() == PROVIDERS.keys()
    for name in found:
        if reason(name) is not None:
            with pytest.raises(ProviderError, match=rf"{name} does not run here: .*\((pip|export|install)"):
                refuse_unavailable(name)
    assert capfd.readouterr() == ("", "")


def test_a_wheel_without_the_provider_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(availability, "installed_wheels", lambda: (Wheel("onnxruntime", onnxruntime.__version__),))
    assert reason("cuda") == f"onnxruntime {onnxruntime.__version__} is built without it"
    missing_plugin = reason("qnn")
    assert missing_plugin is not None
    assert missing_plugin.endswith("and its plug-in onnxruntime_qnn is not installed")


def test_wheels_over_each_other_are_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    both = (Wheel("onnxruntime", "1.31.1"), Wheel("onnxruntime-gpu", "1.31.1"))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(availability, "installed_wheels", lambda: both)
    found = fault("cuda")
    assert found is not None
    assert found.why.startswith("onnxruntime 1.31.1 and onnxruntime-gpu 1.31.1 are installed over each other")
    assert found.remedy == "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"


def distribution(directory: Path, name: str, version: str, module: str = "onnxruntime") -> None:
    info = directory / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text(f"{module}/__init__.py,,\n{info.name}/METADATA,,\n")


def test_installed_wheels_are_those_that_bring_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {wheel.name for wheel in installed_wheels()}
    assert before
    monkeypatch.syspath_prepend(str(tmp_path))
    distribution(tmp_path, "onnxruntime-rocm", "1.22.0")
    distribution(tmp_path, "onnxruntime-qnn", "2.7.0", module="onnxruntime_qnn")  # a plug-in, which harms nobody
    found = installed_wheels()
    assert {wheel.name for wheel in found} == before | {"onnxruntime-rocm"}
    assert wheel_fault(found, onnxruntime.__version__) is not None


def test_the_files_of_the_wheels_are_listed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    before = installed_wheels()
    monkeypatch.setattr("importlib.metadata.distributions", lambda **_: pytest.fail("they are read again"))
    assert installed_wheels() == before


@pytest.mark.parametrize(
    ("wheels", "imported", "words"),
    [
        ((), "1.31.1", None),
        ((Wheel("onnxruntime", "1.31.1"),), "1.31.1", None),
        ((Wheel("onnxruntime", "1.31.1+cpu"),), "1.31.1", None),
        (
            (Wheel("onnxruntime-gpu", "1.31.1"),),
            "1.30.0",
            "onnxruntime-gpu 1.31.1 is installed, but onnxruntime 1.30.0",
        ),
    ],
)
def test_what_is_imported_must_be_what_is_installed(wheels: Any, imported: str, words: str | None) -> None:
    found = wheel_fault(wheels, imported)
    assert found is None if words is None else (found is not None and words in found[0] and "pip install" in found[1])


@linux
def test_nvidia_wheels_are_asked_where_there_is_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    answers = iter([[Missing("libcudart.so.13", "cannot open")], []])
    monkeypatch.setattr(availability, "missing_libraries", lambda path: next(answers))
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("noise"))
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert reason("cuda") is None
    assert out.getvalue() == ""


def test_elsewhere_than_on_linux_only_a_session_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(sys, "platform", "win32")
    assert reason("cuda") is None


def test_a_provider_that_a_plugin_brought_needs_no_library_of_onnxruntimes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["OpenVINOExecutionProvider"])
    before = reason("openvino")
    assert before is not None or not sys.platform.startswith("linux")
    monkeypatch.setitem(plugin._registered, "/a/plugin.so", "OpenVINOExecutionProvider")
    assert reason("openvino") is None


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A plug-in's Python package that does what `code` says, seen by this process and by its children."""

    def write(code: str) -> Path:
        directory = tmp_path / "site" / "onnxruntime_ep_webgpu"
        directory.mkdir(parents=True)
        (directory / "__init__.py").write_text(code)
        monkeypatch.syspath_prepend(str(directory.parent))
        return directory

    yield write  # type: ignore[misc]
    sys.modules.pop("onnxruntime_ep_webgpu", None)


def elf_without_needs() -> bytes:
    """The shortest ELF file in which nothing is missing: it has no sections."""
    return b"\x7fELF\x02\x01" + bytes(34) + bytes(24)


def test_a_plugin_that_ends_its_process_does_not_end_ours(package: Package) -> None:
    directory = package("import os, signal\ndef get_library_path(): os.kill(os.getpid(), signal.SIGSEGV)\n")
    (directory / "libonnxruntime_providers_webgpu.so").write_bytes(elf_without_needs())
    assert reason("webgpu") is None
    assert runs("webgpu") == "it ends the process that loads it (SIGSEGV)"


def test_only_what_has_run_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["no device", None, "ends the process", None])
    monkeypatch.setattr(probing, "_try", lambda name: next(answers))

    def ask_anew(**how: bool) -> str | None:
        probing._answers.clear()
        return probing.probe("cuda", **how)

    assert ask_anew() == "no device"
    assert ask_anew() is None  # a refusal is asked again
    assert ask_anew() is None  # what has run is not
    assert ask_anew(fresh=True) == "ends the process"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert ask_anew() is None
    assert next(answers, "all asked") == "all asked"


def test_a_fresh_answer_replaces_what_this_process_knew(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([None, "the device is gone", None, "never asked"])
    monkeypatch.setattr(probing, "_try", lambda name: next(answers))
    assert probing.probe("cuda") is None
    assert probing.probe("cuda", fresh=True) == probing.probe("cuda") == "the device is gone"
    assert (probing.probe("cuda", fresh=True), probing.probe("cuda")) == (None, None)


def test_two_threads_that_ask_packages_leave_stdout_as_it_was(package: Package) -> None:
    package("""
import threading
inside, left, order = threading.Event(), threading.Event(), []
def get_library_path():
    order.append(1)
    if len(order) == 1:
        inside.wait(0.5)  # for the other, which comes before this one is done if it can
    else:
        inside.set()
        left.wait(0.5)  # and goes after it
    return ""
""")
    import onnxruntime_ep_webgpu as asked

    before = sys.stdout

    def ask() -> None:
        plugin.package_library("onnxruntime_ep_webgpu")
        asked.left.set()

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    after, sys.stdout = sys.stdout, before
    assert after is before


def test_a_library_that_is_refused_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: str) -> None:
        raise RuntimeError

    monkeypatch.setattr(onnxruntime, "register_execution_provider_library", refuse)
    (tmp_path / "libplugin.so").touch()
    with pytest.raises(ProviderError, match="can load: RuntimeError"):
        plugin.open_library(str(tmp_path / "libplugin.so"))


def test_without_a_place_to_remember_it_is_asked_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").touch()
    asked: list[str] = []
    monkeypatch.setattr(probing, "_try", asked.append)
    for _ in range(2):
        probing._answers.clear()
        assert probing.probe("cuda") is None
    assert asked == ["cuda", "cuda"]


def test_a_provider_is_really_asked_in_another_process() -> None:
    assert probing.probe("cpu") is None
    assert probing.probe("cudo") == "there is no execution provider 'cudo'"


def test_a_plugin_that_writes_no_text_is_still_answered_for(package: Package) -> None:
    package(
        "import os\ndef get_library_path():\n    os.write(2, b'\\xff\\xfe driver\\n')\n    raise OSError('no driver')\n"
    )
    assert "no driver" in str(probing.probe("webgpu"))


def test_a_plugin_that_takes_forever_is_given_up(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    package("import time\ntime.sleep(600)\n")
    monkeypatch.setattr(probing, "_LONGEST_S", 1)
    assert probing.probe("webgpu") == "it did not answer within 1 s"


@pytest.mark.parametrize(
    "code", ["raise ImportError('no driver')", "def get_library_path(): raise OSError('no driver')"]
)
def test_a_plugin_package_that_fails_is_named(package: Package, code: str) -> None:
    package(code)
    with pytest.raises(ProviderError, match="the package onnxruntime_ep_webgpu does not say .* no driver"):
        plugin.package_library("onnxruntime_ep_webgpu")


@linux
def test_a_plugin_whose_library_is_broken_is_named(package: Package) -> None:
    directory = package("")
    (directory / "libonnxruntime_providers_webgpu.so").write_bytes(b"\x7fELF nothing")
    assert reason("webgpu") == (
        f"libonnxruntime_providers_webgpu.so: {directory}/libonnxruntime_providers_webgpu.so "
        "is not a 64-bit little-endian ELF file"
    )


@pytest.mark.parametrize("content", [b"", b"no library", b"\x7fELF\x02\x01" + bytes(100)])
def test_a_file_that_is_no_plugin_is_refused(tmp_path: Path, double: Path, content: bytes) -> None:
    path = tmp_path / "libplugin.so"
    path.write_bytes(content)
    with pytest.raises(
        ProviderError, match=r"libplugin\.so is not an execution provider that ONNX Runtime .* can load"
    ):
        edgeai.load(double, ep=str(path))


def test_a_library_of_something_else_is_refused(double: Path) -> None:
    import _ctypes

    if not getattr(_ctypes, "__file__", None):
        pytest.skip("this Python has _ctypes built in")
    with pytest.raises(ProviderError, match="CreateEpFactories"):
        edgeai.load(double, ep=_ctypes.__file__)


def test_auto_that_knows_no_operator_of_the_model_gives_way_to_the_cpu(
    double: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(availability, "runs", lambda name: None)
    monkeypatch.setattr(availability, "fault", lambda name: None)
    refuse = ProviderError("execution provider cuda implements no node of this model")
    real = opening._create_on

    def create_on(names: list[str], *arguments: Any) -> Any:
        if names[0] == "cuda":
            raise refuse
        return real(names, *arguments)

    monkeypatch.setattr(opening, "_create_on", create_on)
    with edgeai.load(double, ep="auto") as session:
        assert session.providers == ("cpu",)
        assert session.skipped == (refuse.message,)
