"""What a model's axes decide of a provider's options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeai.errors import ProviderError, UsageError
from edgeai.machine import usable_cores
from edgeai.runtime import fitting, opening
from edgeai.runtime.fitting import fitted, prepared, profile_shapes, raw_run
from edgeai.runtime.providers import CpuOptions, CudaOptions, OpenvinoOptions, TensorrtOptions, TensorrtRtxOptions
from edgeai.runtime.session import Session
from edgeai.runtime.settings import SessionSettings
from edgeai.spec import Axis, Signature, TensorSpec

IMAGE = TensorSpec("x", "float32", ("batch", 3, "size", "size"))
MASK = TensorSpec("mask", "bool", (1, 8))
AXES = (Axis("batch", 1, 16), Axis("size", 64, 256, 32))
DYNAMIC = Signature((IMAGE, MASK), (), AXES)
STATIC = Signature((MASK,), ())


def test_profiles_come_from_the_declared_ranges() -> None:
    assert profile_shapes(DYNAMIC) == ("x:1x3x64x64", "x:4x3x128x128", "x:16x3x256x256")


@pytest.mark.parametrize("signature", [None, STATIC, Signature((IMAGE,), (), AXES[:1])])
def test_without_ranges_there_are_no_profiles(signature: Signature | None) -> None:
    assert profile_shapes(signature) == (None, None, None)


@given(
    low=st.integers(0, 100), span=st.integers(0, 1000), multiple=st.sampled_from([1, 2, 8, 32]),
    fixed=st.lists(st.integers(1, 9), max_size=2),
)  # fmt: skip
def test_a_profile_is_within_its_range(low: int, span: int, multiple: int, fixed: list[int]) -> None:
    axis = Axis("n", low * multiple, (low + span) * multiple, multiple)
    signature = Signature((TensorSpec("x", "float32", ("n", *fixed)),), (), (axis,))
    sizes = [[int(size) for size in text.partition(":")[2].split("x")] for text in profile_shapes(signature) if text]
    assert len(sizes) == 3
    assert [shape[1:] for shape in sizes] == [fixed] * 3
    assert sizes[0][0] == axis.minimum <= sizes[1][0] <= sizes[2][0] == axis.maximum
    assert all(shape[0] % multiple == 0 for shape in sizes)


CORES = str(usable_cores())
BF16 = '{"CPU": {"INFERENCE_PRECISION_HINT": "bf16"}}'
F32 = '{"CPU": {"INFERENCE_PRECISION_HINT": "f32"}}'
STREAMS = '{"CPU": {"INFERENCE_PRECISION_HINT": "bf16", "NUM_STREAMS": "1"}, "GPU": {}}'


@pytest.mark.parametrize(
    ("options", "settings", "found"),
    [
        ({}, {}, {"num_of_threads": CORES}),
        ({}, {"threads": 1, "bfloat16": True}, {"num_of_threads": "1", "load_config": BF16}),
        ({"device_type": "CPU"}, {"threads": 3}, {"device_type": "CPU", "num_of_threads": "3"}),
        ({"num_of_threads": 2, "load_config": F32}, {"threads": 1, "bfloat16": True},
         {"num_of_threads": "2", "load_config": F32}),
        ({"load_config": '{"CPU": {"NUM_STREAMS": "1"}, "GPU": {}}'}, {"bfloat16": True},
         {"num_of_threads": CORES, "load_config": STREAMS}),
        ({"device_type": "GPU"}, {"threads": 1, "bfloat16": True}, {"device_type": "GPU"}),
    ],
)  # fmt: skip
def test_the_sessions_settings_reach_openvino_unless_its_options_say_otherwise(
    options: dict[str, Any], settings: dict[str, Any], found: dict[str, str], tmp_path: Path
) -> None:
    with prepared(OpenvinoOptions(**options), tmp_path / "m.onnx", SessionSettings(**settings)) as values:
        assert values == found
    with prepared(CpuOptions(), tmp_path / "m.onnx", SessionSettings(**settings)) as values:
        assert values == {}


@pytest.mark.parametrize("kind", [TensorrtOptions, TensorrtRtxOptions])
def test_tensorrt_gets_the_profile_unless_the_user_gave_one(kind: Any) -> None:
    chosen = fitted(kind(), DYNAMIC)
    assert (chosen.profile_min_shapes, chosen.profile_max_shapes) == ("x:1x3x64x64", "x:16x3x256x256")
    mine = kind(profile_min_shapes="x:1", profile_opt_shapes="x:2", profile_max_shapes="x:3")
    assert fitted(mine, DYNAMIC) is mine


@pytest.mark.parametrize(
    ("signature", "given", "search"),
    [
        (DYNAMIC, None, "HEURISTIC"),
        (None, None, "HEURISTIC"),
        (STATIC, None, None),
        (DYNAMIC, "EXHAUSTIVE", "EXHAUSTIVE"),
    ],
)
def test_convolutions_are_searched_by_heuristic_where_shapes_change(
    signature: Signature | None, given: Any, search: str | None
) -> None:
    chosen = fitted(CudaOptions(cudnn_conv_algo_search=given), signature)
    assert isinstance(chosen, CudaOptions)
    assert chosen.cudnn_conv_algo_search == search


def test_the_cpu_needs_no_fitting() -> None:
    assert fitted(CpuOptions(), DYNAMIC) == CpuOptions()


def test_tensorrt_is_given_an_entry_of_its_own(double: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "cuda_environment", lambda device_id: {"gpu": str(device_id)})
    options = TensorrtOptions(engine_cache_path=str(tmp_path / "c"), timing_cache=False)
    with prepared(options, double, SessionSettings()) as values:
        assert values["trt_engine_cache_enable"] == "True"
        assert Path(values["trt_engine_cache_path"]).is_relative_to(tmp_path / "c")
        assert "trt_timing_cache_path" not in values
    with prepared(TensorrtOptions(engine_cache=False), double, SessionSettings()) as values:
        assert values == {"device_id": "0"}


def test_a_session_on_tensorrt_is_made_with_its_profile_and_its_entry(
    model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU is absent: ONNX Runtime is stopped where it would build the engine."""
    seen: list[Any] = []

    def stop(*_: Any, providers: list[Any], **__: Any) -> Any:
        seen.extend(providers)
        if directory := providers[0][1].get("trt_engine_cache_path"):
            Path(directory, "half.engine").touch()
        raise RuntimeError("no GPU")

    monkeypatch.setattr(fitting, "cuda_environment", lambda device_id: {"gpu": "Orin"})
    monkeypatch.setattr(opening, "refuse_unavailable", lambda name: None)
    monkeypatch.setattr(opening, "reason", lambda name: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", stop)
    signature = Signature(
        (TensorSpec("x", "float32", ("n", 3)),), (TensorSpec("y", "float32", ("n", 3)),), (Axis("n", 1, 16),)
    )
    path = model("d (float[n,3] x) => (float[n,3] y) { y = Relu(x) }", signature=signature)
    options = {"tensorrt": {"engine_cache_path": str(tmp_path / "c")}}
    with pytest.raises(ProviderError, match=r"tensorrt does not start: no GPU \(pip install"):
        Session(path, ep=("tensorrt", "cuda"), options=options, settings=SessionSettings(threads=1))
    (name, values), (second, others), (last, _) = seen[:3]
    assert (name, second, last) == ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
    assert (values["trt_profile_min_shapes"], values["trt_profile_max_shapes"]) == ("x:1x3", "x:16x3")
    assert others["cudnn_conv_algo_search"] == "HEURISTIC"
    with prepared(TensorrtOptions(engine_cache_path=str(tmp_path / "c")), path, SessionSettings()) as again:
        assert again["trt_engine_cache_path"] == values["trt_engine_cache_path"]
        assert list(Path(again["trt_engine_cache_path"]).iterdir()) == []  # half an engine is none


class Recording:
    """An InferenceSession that records CUDA graphs."""

    def __init__(self, shape: tuple[int | str, ...]) -> None:
        self.shape, self.seen = shape, list[str]()

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return {"CUDAExecutionProvider": {"enable_cuda_graph": "1"}, "CPUExecutionProvider": {}}

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="x", shape=self.shape)]

    def run(self, outputs: list[str], feed: Any, options: Any) -> list[Any]:
        self.seen.append(options.get_run_config_entry("gpu_graph_id"))
        return [feed]


def test_plain_runs_are_never_recorded() -> None:
    session = Recording((1, 3))
    run = raw_run(session)
    assert run(["y"], 5, None) == [5]
    assert session.seen == ["-1"]


def test_changing_shapes_cannot_be_recorded() -> None:
    with pytest.raises(UsageError, match="recorded at fixed shapes, and x has symbolic axes"):
        raw_run(Recording(("batch", 3)))


def test_other_sessions_are_called_directly(double: Path) -> None:
    import onnxruntime

    raw = onnxruntime.InferenceSession(double, providers=["CPUExecutionProvider"])
    assert raw_run(raw) == raw._sess.run
    with Session(double, ep="cpu") as session:
        assert session.run({"x": np.ones((1, 3), np.float32)})["y"].tolist() == [[2, 2, 2]]
