from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.graph import CleanUp, FuseAttention


def test_an_exported_attention_becomes_one_node_and_its_projections_stay_products(
    encoder: Artifact, encoder_feed: dict[str, Any], keeps_contract: Callable[..., Any]
) -> None:
    outcome = keeps_contract(FuseAttention(), encoder, encoder_feed)
    assert outcome.modified
    assert outcome.operators["Attention"] == 0, "what the exporter writes since opset 23"
    assert outcome.operators["MultiHeadAttention"] == 1
    assert outcome.operators["Softmax"] == 0
    assert outcome.operators["MatMul"] == 5, "query, key, value, output and head keep their weights in sight"
    assert outcome.model.opset_imports["com.microsoft"] == 1


def test_a_softmax_that_is_no_attention_is_left_alone(write: Callable[..., Any]) -> None:
    artifact = write(
        "g (float[n, 8] x) => (float[n, 4] y) { h = MatMul(x, W) y = Softmax(h) }", W=np.ones((8, 4), np.float32)
    )
    model = modelfile.load(artifact.path)
    assert not FuseAttention()(model).modified
    assert [node.op_type for node in model.graph] == ["MatMul", "Softmax"]


def test_a_contrib_operator_without_its_import_is_caught_by_the_postcondition(encoder: Artifact) -> None:
    class Forgetful(FuseAttention):
        def call(self, model: ir.Model) -> ir.passes.PassResult:
            result = super().call(model)
            result.model.graph.append(ir.node("Anything", [], domain="com.microsoft"))
            result.model.opset_imports.pop("com.microsoft", None)
            return result

    with pytest.raises(ir.passes.PostconditionError, match=r"com.microsoft is used but not imported"):
        Forgetful()(CleanUp()(modelfile.load(encoder.path)).model)
