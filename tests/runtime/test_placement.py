"""Where nodes run, as data and in one line; and what the kernels that are left of them took."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edgeai.errors import InputError, ProviderError, UsageError
from edgeai.runtime.placement import Node, Placement
from edgeai.runtime.profiling import Kernel, Profile
from edgeai.runtime.session import Session

Write = Callable[..., Path]
NODES = [Node(f"m{i}", "MatMul", "cuda") for i in range(6)] + [Node("s", "Shape", "cpu"), Node("g", "Gather", "cpu")]
MIXED = Placement(tuple(NODES))


def test_shares_and_summary() -> None:
    assert MIXED.share("cuda") == MIXED.share("CUDAExecutionProvider") == 0.75
    assert MIXED.count("cpu") == 2
    assert MIXED.share("tensorrt") == 0
    assert MIXED.summary == "cuda 6/8 (75%), cpu 2/8: 1 Shape, 1 Gather"


def test_an_empty_graph_has_no_nodes() -> None:
    assert (Placement(()).share("cpu"), Placement(()).summary) == (0.0, "no nodes")
    Placement(()).refuse_below("cuda", 1.0, Path("m"))


def test_real_nodes(double: Path) -> None:
    assert [(node.op_type, node.provider) for node in Session(double).placement.nodes] == [("Mul", "cpu")]


def test_case_14_less_than_the_asked_share_is_refused_with_what_stays_behind() -> None:
    MIXED.refuse_below("cuda", 0.75, Path("m.onnx"))
    with pytest.raises(ProviderError, match=r"cuda runs 75\.0% of the nodes, less than min_on_ep=0\.95 .*1 Shape"):
        MIXED.refuse_below("cuda", 0.95, Path("m.onnx"))
    with pytest.raises(ProviderError, match="tensorrt implements no node of this model"):
        MIXED.refuse_below("tensorrt", 0.0, Path("m.onnx"))


def test_a_profile_shows_what_is_left_of_the_nodes(model: Write) -> None:
    path = model(
        "f (float[n,2] x) => (float[n,2] y) <float[2,2] w = {1,2,3,4}, float[2] b = {1,1}> "
        "{ a = Gemm(x, w, b) c = Relu(a) y = Sigmoid(c) }"
    )
    with Session(path, ep="cpu") as session:
        assert [node.op_type for node in session.placement.nodes] == ["Gemm", "Relu", "Sigmoid"]
        found = session.profile({"x": np.ones((2, 2), np.float32)}, runs=3)
        assert [(kernel.op_type, kernel.calls) for kernel in found.kernels] == [("FusedGemm", 3), ("Sigmoid", 3)]
        assert found.placement.share("cpu") == 1.0
        assert found.summary.startswith("cpu 2/2 (100%); time: ")
        with pytest.raises(InputError, match="missing x"):
            session.profile({})
        with pytest.raises(UsageError, match="runs = 0, must be at least 1"):
            session.profile({"x": np.ones((2, 2), np.float32)}, runs=0)


def test_a_profiled_run_that_fails_is_explained(model: Write) -> None:
    path = model("r (float[n] x) => (float[2,m] y) <int64[2] shape = {2,-1}> { y = Reshape(x, shape) }")
    with Session(path, ep="cpu") as session, pytest.raises(InputError, match="the model cannot compute this input"):
        session.profile({"x": np.ones(3, np.float32)})


def test_time_is_shared_by_provider() -> None:
    kernels = (Kernel("a", "Conv", "cuda", 2, 75), Kernel("b", "Shape", "cpu", 2, 25))
    assert Profile(kernels).time_share("cuda") == 0.75
    assert Profile(kernels).summary == "cuda 1/2 (50%), cpu 1/2: 1 Shape; time: Conv 75%, Shape 25%"
    assert Profile(()).time_share("cpu") == 0.0
    assert Profile(()).summary == "no nodes; time: none"


def test_a_profile_that_was_not_written_is_an_error(double: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Session(double, ep="cpu") as session:
        monkeypatch.setattr(onnxruntime.InferenceSession, "end_profiling", lambda self: "/nowhere/run.json")
        with pytest.raises(ProviderError, match="profiler wrote nothing that can be read"):
            session.profile({"x": np.ones((2, 3), np.float32)})
