from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from edgeai import modelfile
from edgeai.graph import CleanUp

_W = np.arange(12, dtype=np.float32).reshape(4, 3)


def test_unused_repeated_and_pass_through_nodes_go(
    write: Callable[..., Any], keeps_contract: Callable[..., Any]
) -> None:
    artifact = write(
        """g (float[n, 4] x) => (float[n, 3] y) {
            a = MatMul(x, W) b = MatMul(x, V) unused = Exp(a) c = Add(a, b) d = Identity(c) y = Relu(d) }""",
        W=_W,
        V=_W.copy(),
        never=_W,
    )
    outcome = keeps_contract(CleanUp(), artifact, {"x": np.ones((2, 4), np.float32)})
    assert outcome.operators == {"MatMul": 1, "Add": 1, "Relu": 1}, "the two equal weights make the two products equal"
    assert len(outcome.model.graph.initializers) == 1


def test_a_weight_listed_as_an_input_becomes_a_constant(
    write: Callable[..., Any], keeps_contract: Callable[..., Any]
) -> None:
    artifact = write("g (float[n, 4] x, float[4, 3] W) => (float[n, 3] y) { y = MatMul(x, W) }", W=_W)
    outcome = keeps_contract(CleanUp(), artifact, {"x": np.ones((2, 4), np.float32)})
    assert [value.name for value in outcome.model.graph.inputs] == ["x"]


def test_source_paths_go_and_the_models_own_metadata_stays(write: Callable[..., Any]) -> None:
    artifact = write("g (float[n, 4] x) => (float[n, 3] y) { y = MatMul(x, W) }", W=_W)
    model = modelfile.load(artifact.path)
    model.metadata_props["author"] = "me"
    next(iter(model.graph)).metadata_props["pkg.torch.onnx.stack_trace"] = "File /home/me/secret.py"
    result = CleanUp()(model)
    assert result.modified
    assert b"secret" not in onnx.ModelProto.SerializeToString(ir.to_proto(result.model))
    assert result.model.metadata_props["author"] == "me"


def test_random_nodes_are_not_taken_for_repeated_ones(write: Callable[..., Any]) -> None:
    artifact = write(
        """g (float[2] x) => (float[2] y) {
            a = RandomNormalLike(x) b = RandomNormalLike(x) c = Sub(a, b) y = Add(c, x) }"""
    )
    result = CleanUp()(modelfile.load(artifact.path))
    assert not result.modified
