"""Names, options and reasons of execution providers."""

from __future__ import annotations

import contextlib
import ctypes
import io
import platform
import struct
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from edgeai.errors import ProviderError, UsageError
from edgeai.runtime import providers
from edgeai.runtime.preflight import missing_libraries, needed_libraries
from edgeai.runtime.providers import (
    PROVIDERS,
    CpuOptions,
    CudaOptions,
    TensorrtOptions,
    available,
    ort_options,
    parse_options,
    reason,
    refuse_unavailable,
    resolve,
    short_name,
)

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ELF files are Linux's")


def test_short_and_long_names_resolve() -> None:
    assert resolve("cpu") == resolve("CPUExecutionProvider") == ("cpu",)
    assert resolve(["TensorrtExecutionProvider", "cuda", "cpu"]) == ("tensorrt", "cuda", "cpu")
    assert short_name("OtherExecutionProvider") == "OtherExecutionProvider"


@pytest.mark.parametrize(
    ("ep", "words"),
    [
        ("cudo", "no execution provider 'cudo' .did you mean cuda"),
        (["cpu", "auto"], "no execution provider 'auto'"),
        (["cpu", "CPUExecutionProvider"], "cpu, cpu given"),
        ([], "none given"),
    ],
)
def test_bad_names_are_refused(ep: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        resolve(ep)


@pytest.mark.parametrize(("cuda", "chosen"), [(None, "cuda"), ("no", "cpu")])
def test_auto_takes_what_loads(monkeypatch: pytest.MonkeyPatch, cuda: str | None, chosen: str) -> None:
    monkeypatch.setattr(providers, "reason", lambda name: cuda if name == "cuda" else None)
    assert resolve("auto") == (chosen,)


def test_every_row_is_complete() -> None:
    for name, row in PROVIDERS.items():
        assert row.name == name
        assert row.ort_name in onnxruntime.get_all_providers()
        assert parse_options(name) == row.options()
        assert bool(row.library) == bool(row.remedy)


def test_the_cpu_always_runs_and_the_rest_says_why_not(capfd: pytest.CaptureFixture[str]) -> None:
    found = available()
    assert found["cpu"] is None
    assert found.keys() == PROVIDERS.keys()
    for name in found:
        if found[name] is not None:
            with pytest.raises(ProviderError, match=f"{name} does not run here: .*pip install"):
                refuse_unavailable(name)
    assert capfd.readouterr() == ("", "")


def test_a_wheel_without_the_provider_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert reason("cuda") == "the installed onnxruntime is built without it"


@linux
def test_nvidia_wheels_are_asked_where_there_is_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    answers = iter([["libcudart.so.13"], []])
    monkeypatch.setattr(providers, "missing_libraries", lambda path: next(answers))
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("noise"))
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert reason("cuda") is None
    assert out.getvalue() == ""


def test_elsewhere_than_on_linux_only_a_session_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(sys, "platform", "win32")
    assert reason("cuda") is None


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("cuda", {"device": 1}, "no option 'device' .did you mean device_id"),
        ("cuda", {"device_id": "x"}, "device_id='x' is not a whole number"),
        ("cuda", {"device_id": -1}, "device_id = -1, must be at least 0"),
        ("cuda", {"gpu_mem_limit_bytes": 0}, "must be at least 1"),
        ("cuda", {"cudnn_conv_algo_search": "FAST"}, "is not one of HEURISTIC, EXHAUSTIVE, DEFAULT"),
        ("tensorrt", {"profile_min_shapes": "x:1"}, "belong together"),
        ("tensorrt", {"workspace_bytes": 0}, "workspace_bytes = 0"),
        ("cpu", {"arena": True}, "no option 'arena' .there are: none"),
        ("cpu", CudaOptions(), "takes CpuOptions, got CudaOptions"),
    ],
)
def test_bad_options_are_refused(name: str, values: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_options(name, values)


def test_options_become_onnxruntimes_keys() -> None:
    assert ort_options(CpuOptions()) == {}
    assert ort_options(CudaOptions()) == {"device_id": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    cuda = parse_options("cuda", {"gpu_mem_limit_bytes": "1000", "use_tf32": "false"})
    assert ort_options(cuda) | {"device_id": "0"} == {
        "device_id": "0", "cudnn_conv_algo_search": "HEURISTIC", "gpu_mem_limit": "1000", "use_tf32": "False",
    }  # fmt: skip
    tensorrt = TensorrtOptions(fp16=True, engine_cache_path="/cache", workspace_bytes=7)
    assert ort_options(tensorrt) == {
        "device_id": "0", "trt_fp16_enable": "True", "trt_max_workspace_size": "7",
        "trt_engine_cache_path": "/cache", "trt_engine_cache_enable": "True",
    }  # fmt: skip


@linux
def test_needed_libraries_are_read_from_the_file() -> None:
    # the extension module of ctypes is linked to libffi and libc, on every distribution
    import _ctypes

    names = list(needed_libraries(Path(_ctypes.__file__))) if getattr(_ctypes, "__file__", None) else ["libc.so.6"]
    assert any(name.startswith("libc.") for name in names)
    assert all(ctypes.CDLL(name) for name in names)


def elf(path: Path, *needed: str) -> Path:
    """The smallest ELF file that has a dynamic section."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name in needed)
    offsets = [names.index(name.encode() + b"\0") for name in needed]
    dynamic = b"".join(struct.pack("<qQ", 1, offset) for offset in offsets) + struct.pack("<qQ", 0, 0)
    start = 64
    header = b"\x7fELF\x02\x01" + bytes(34) + struct.pack("<Q", start + len(names) + len(dynamic)) + bytes(10)
    header += struct.pack("<HHH", 64, 2, 0)
    section = "<IIQQQQIIQQ"
    sections = struct.pack(section, 0, 3, 0, 0, start, len(names), 0, 0, 0, 0)
    sections += struct.pack(section, 0, 6, 0, 0, start + len(names), len(dynamic), 0, 0, 0, 0)
    path.write_bytes(header + names + dynamic + sections)
    return path


@linux
def test_only_what_cannot_be_loaded_is_missing(tmp_path: Path) -> None:
    libc = "libc.so.6" if platform.libc_ver()[0] == "glibc" else "libc.so"
    (tmp_path / "libbeside.so").touch()
    library = elf(tmp_path / "lib.so", libc, "libnobody.so.9", "libbeside.so")
    assert list(needed_libraries(library)) == [libc, "libnobody.so.9", "libbeside.so"]
    assert missing_libraries(library) == ["libnobody.so.9"]


@pytest.mark.parametrize("content", [None, b"", b"MZ not an ELF file", b"\x7fELF\x02\x01" + b"\xff" * 80])
def test_a_library_that_is_none_is_itself_missing(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "lib.so"
    if content is not None:
        path.write_bytes(content)
    assert missing_libraries(path) == ["lib.so"]
