"""softmax(scale * Q K^T + bias) V, in any spelling -> the standard Attention on (B, S, H*D) tensors.

Exporters write the operator with heads on an axis of their own, and a Transpose before each input and behind the
output. It splits and joins heads itself when its inputs have three axes.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from edgeai.graph.rewriting import insert
from edgeai.graph.sdpa import Sdpa, find
from edgeai.graph.sdpa_rewriting import joined, mask, past, saves_work, take_over

ATTENTION_SINCE = 23


class FlattenAttention(ir.passes.InPlacePass):
    """Needs opset 23 (see RaiseOpset). Leaves alone what would need a Transpose to get there."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        common.ShapeInferencePass(data_prop=True)(model)
        if model.opset_imports.get("", 0) < ATTENTION_SINCE:
            return ir.passes.PassResult(model, modified=False)
        matches = [found for found in find(model.graph) if saves_work(found) and not _overflows(found)]
        for found in matches:
            _flatten(found)
        return ir.passes.PassResult(model, modified=bool(matches))


def _overflows(found: Sdpa) -> bool:
    """Two masks of lowest numbers: a row under both is zeros, under one the mean. Attention knows one of the two."""
    return found.guarded and len(found.biases) > 1 and not found.may_be_all_masked


def _flatten(found: Sdpa) -> None:
    attributes = {
        "q_num_heads": found.query.count,
        "kv_num_heads": found.key.count,
        "scale": found.scale,
        "is_causal": int(found.causal),
    }
    inputs = [*joined(found), mask(found), *past(found)]
    node = insert(found.node, "Attention", inputs, attributes, outputs=3 if found.cache else 1)
    take_over(found, node)
