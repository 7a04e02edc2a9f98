"""Names and options of execution providers: what is real, what is refused, and what ONNX Runtime is told."""

from __future__ import annotations

import dataclasses
import fnmatch
import mmap
import re
from pathlib import Path
from typing import Any, get_args

import onnxruntime
import pytest

from edgeai.errors import UsageError
from edgeai.runtime.providers import (
    PROVIDERS,
    CoremlOptions,
    CpuOptions,
    CudaOptions,
    DirectmlOptions,
    OpenvinoOptions,
    PluginOptions,
    ProviderOptions,
    QnnOptions,
    TensorrtOptions,
    TensorrtRtxOptions,
    WebgpuOptions,
    availability,
    parse_options,
    resolve,
    short_name,
)

ROWS = tuple(PROVIDERS.values())
CAPI = Path(onnxruntime.__file__).parent / "capi"


def test_short_and_long_names_resolve() -> None:
    assert resolve("cpu") == resolve("CPUExecutionProvider") == ("cpu",)
    assert resolve(["TensorrtExecutionProvider", "cuda", "cpu"]) == ("tensorrt", "cuda", "cpu")
    assert short_name("OtherExecutionProvider") == "OtherExecutionProvider"


@pytest.mark.parametrize(
    ("ep", "words"),
    [
        ("cudo", "no execution provider 'cudo' .did you mean cuda"),
        ("tensorrt_rtx", "did you mean tensorrt-rtx"),
        (["cpu", "auto"], "no execution provider 'auto'"),
        (["cpu", "CPUExecutionProvider"], "cpu, cpu given"),
        ([], "none given"),
        ("/nowhere/libplugin.so", "/nowhere/libplugin.so: no such plug-in library .or name a provider: cpu, cuda"),
    ],
)
def test_bad_names_are_refused(ep: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        resolve(ep)


@pytest.mark.parametrize("chosen", ["cuda", "openvino", "cpu"])
def test_auto_takes_what_runs(monkeypatch: pytest.MonkeyPatch, chosen: str) -> None:
    monkeypatch.setattr(availability, "runs", lambda name: None if name in (chosen, "cpu") else "no")
    assert resolve("auto") == (chosen,)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_is_complete(row: Any) -> None:
    assert PROVIDERS[row.name] is row
    assert row.ort_name in onnxruntime.get_all_providers()
    assert row.options in get_args(ProviderOptions)
    assert parse_options(row.name) == row.options()
    assert bool(row.remedy) == (row.name != "cpu")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_option_is_explained(row: Any) -> None:
    named = re.findall(r"`([a-z0-9_*]+)`", row.options.__doc__ or "")
    for field in dataclasses.fields(row.options):
        assert any(fnmatch.fnmatch(field.name, name) for name in named), field.name


@pytest.mark.parametrize(("kind", "library"), [(CudaOptions, "cuda"), (TensorrtOptions, "tensorrt")])
def test_the_keys_are_in_onnxruntimes_own_library(kind: type, library: str) -> None:
    path = CAPI / f"libonnxruntime_providers_{library}.so"
    if not path.exists():
        pytest.skip(f"the installed onnxruntime has no {path.name}")
    with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        keys = [field.metadata["key"] for field in dataclasses.fields(kind) if "key" in field.metadata]
        assert len(keys) > 10
        assert [key for key in keys if data.find(key.encode()) < 0] == []


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
        ("tensorrt", {"fp61": True}, "no option 'fp61' .did you mean fp16"),
        ("tensorrt-rtx", {"profile_max_shapes": "x:1"}, "belong together"),
        ("openvino", {"device": "CPU"}, "no option 'device' .did you mean device_type"),
        ("openvino", {"num_streams": 0}, "num_streams = 0"),
        ("openvino", {"load_config": "{"}, "load_config is not JSON"),
        ("openvino", {"load_config": "[]"}, "must be a JSON object"),
        ("openvino", {"load_config": '{"CPU": 1}'}, "must be a JSON object"),
        ("openvino", {"precision": "INT8"}, "is not one of FP32, FP16, ACCURACY"),
        ("qnn", {"backend_type": "htp", "backend_path": "libQnnHtp.so"}, "exclude each other"),
        ("qnn", {"htp_performance_mode": "fast"}, "is not one of default, burst"),
        ("coreml", {"MLComputeUnits": "ALL"}, "no option 'MLComputeUnits'"),
        ("directml", {"device_id": -1}, "directml: device_id = -1"),
        ("webgpu", {"validation_mode": "some"}, "is not one of disabled, wgpuOnly, basic, full"),
        ("cpu", {"arena": True}, "no option 'arena' .there are: none"),
        ("cpu", CudaOptions(), "takes CpuOptions, got CudaOptions"),
    ],
)
def test_bad_options_are_refused(name: str, values: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_options(name, values)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (CpuOptions(), {}),
        (CudaOptions(), {"device_id": "0"}),
        (
            CudaOptions(device_id=1, gpu_mem_limit_bytes=1000, use_tf32=False),
            {"device_id": "1", "gpu_mem_limit": "1000", "use_tf32": "False"},
        ),
        (
            TensorrtOptions(fp16=True, workspace_bytes=7, dla_core=1, engine_cache_path="/not/ours"),
            {
                "device_id": "0", "trt_fp16_enable": "True", "trt_max_workspace_size": "7", "trt_dla_core": "1",
                "trt_dla_enable": "True",
            },
        ),
        (TensorrtRtxOptions(multi_profile=True), {"nv_multi_profile_enable": "1"}),
        (
            OpenvinoOptions(device_type="CPU", disable_dynamic_shapes=True),
            {"device_type": "CPU", "disable_dynamic_shapes": "True"},
        ),
        (QnnOptions(backend_type="htp", vtcm_mb=8), {"backend_type": "htp", "vtcm_mb": "8"}),
        (CoremlOptions(compute_units="CPUOnly"), {"MLComputeUnits": "CPUOnly"}),
        (DirectmlOptions(disable_metacommands=False), {"disable_metacommands": "false"}),
        (WebgpuOptions(enable_int64=True), {"enableInt64": "1"}),
        (PluginOptions({"any": "thing"}), {"any": "thing"}),
    ],
)  # fmt: skip
def test_options_become_onnxruntimes_keys(options: ProviderOptions, expected: dict[str, str]) -> None:
    assert options.to_ort() == expected


def test_text_from_a_command_line_becomes_typed() -> None:
    parsed = parse_options("tensorrt", {"fp16": "true", "workspace_bytes": "1024", "engine_cache": "0"})
    assert parsed == TensorrtOptions(fp16=True, workspace_bytes=1024, engine_cache=False)
