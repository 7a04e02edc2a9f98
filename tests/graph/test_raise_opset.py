from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeai import modelfile
from edgeai.graph import FuseGelu, RaiseOpset, optimize

_GELU = """g (float[n, 8] x) => (float[n, 8] y) {
    d = Div(x, r) e = Erf(d) o = Add(e, one) h = Mul(x, o)
    m = ReduceMean<axes = [1]>(h) z = Sub(h, m) y = Mul(z, half) }"""
_NUMBERS = {name: np.array(n, np.float32) for name, n in (("r", 2**0.5), ("one", 1), ("half", 0.5))}


def test_the_model_is_the_same_in_a_newer_opset(write: Callable[..., Any], keeps_contract: Callable[..., Any]) -> None:
    artifact = write(_GELU, opset=13, **_NUMBERS)
    outcome = keeps_contract(RaiseOpset(20), artifact, {"x": np.ones((2, 8), np.float32)})
    assert outcome.model.opset_imports[""] == 20
    assert not RaiseOpset(17)(outcome.model).modified, "it never lowers"


def test_large_weights_stay_what_and_where_they_are(
    write: Callable[..., Any], keeps_contract: Callable[..., Any]
) -> None:
    weight = np.random.default_rng(0).standard_normal((8, 1024)).astype(np.float32)
    body = """g (float[n, 8] x) => (float[n, 1024] y, float[1024, 8] t) {
        h = MatMul(x, w) y = Softmax<axis = 1>(h) t = Transpose(w) }"""
    artifact = write(body, opset=12, w=weight, unread=weight + 1)
    model = modelfile.load(artifact.path)
    outcome = keeps_contract(RaiseOpset(20), artifact, {"x": np.ones((2, 8), np.float32)})
    assert [value.name for value in outcome.model.graph.inputs] == ["x"]
    assert list(outcome.model.graph.initializers) == list(model.graph.initializers)
    np.testing.assert_array_equal(outcome.model.graph.initializers["w"].const_value.numpy(), weight)


def test_it_opens_the_way_for_newer_operators(write: Callable[..., Any], tmp_path: Path) -> None:
    body = _GELU.replace("z = Sub(h, m) y = Mul(z, half)", "y = Mul(h, half)").replace(
        "m = ReduceMean<axes = [1]>(h)", ""
    )
    done = optimize(write(body, opset=13, **_NUMBERS), out=tmp_path / "o.onnx", passes=(RaiseOpset(20), FuseGelu()))
    assert done.lineage[-1].options["passes"] == ["RaiseOpset", "FuseGelu"]
    assert [node.op_type for node in modelfile.load(done.path).graph] == ["Gelu"]


def test_what_the_converter_cannot_do_is_rolled_back_with_its_word(write: Callable[..., Any], tmp_path: Path) -> None:
    artifact = write("g (float[n, 3] x) => (float[n, 3] y) { y = Softmax(x) }")
    done = optimize(artifact, out=tmp_path / "o.onnx", passes=(RaiseOpset(999),))
    (entry,) = done.lineage[-1].options["rolled_back"]
    assert entry["pass"] == "RaiseOpset"
    assert modelfile.load(done.path).opset_imports[""] == 20


def test_a_converter_that_stops_short_is_caught_by_the_postcondition(write: Callable[..., Any]) -> None:
    class Short(RaiseOpset):
        def call(self, model: ir.Model) -> ir.passes.PassResult:
            return ir.passes.PassResult(model.clone(), modified=False)

    with pytest.raises(ir.passes.PostconditionError, match="the opset is 20, not 23"):
        Short(23)(modelfile.load(write("g (float[n] x) => (float[n] y) { y = Relu(x) }").path))
