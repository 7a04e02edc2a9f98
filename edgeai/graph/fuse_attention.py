"""softmax(scale * Q K^T + bias) V, in any spelling -> ONNX Runtime's MultiHeadAttention.

Its query, key and value are (B, S, H*D), so the Transposes around the heads go as well. The projections stay
MatMuls, where a quantizer finds them; the packed com.microsoft.Attention would keep their weights in float.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from edgeai.graph.rewriting import CONTRIB, insert
from edgeai.graph.sdpa import Sdpa, find
from edgeai.graph.sdpa_rewriting import bias, joined, past, saves_work, take_over

_SHAPE_SLICES_SINCE = 15  # Shape with start and end


class FuseAttention(ir.passes.InPlacePass):
    """Leaves grouped heads alone: the operator has one key head for every query head.

    And a standard Attention whose inputs would need a Transpose to get there.
    """

    writes_contrib = True

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        common.ShapeInferencePass(data_prop=True)(model)
        matches = [found for found in find(model.graph) if not found.grouped and saves_work(found)]
        if model.opset_imports.get("", 0) < _SHAPE_SLICES_SINCE or not matches:
            return ir.passes.PassResult(model, modified=False)
        model.graph.opset_imports.setdefault(CONTRIB, 1)
        for found in matches:
            _fuse(found)
        return ir.passes.PassResult(model, modified=True)

    def ensures(self, model: ir.Model) -> None:
        uses = any(node.domain == CONTRIB for node in model.graph)
        if uses and CONTRIB not in model.graph.opset_imports:
            raise ir.passes.PostconditionError(f"{CONTRIB} is used but not imported")


def _fuse(found: Sdpa) -> None:
    attributes = {"num_heads": found.query.count, "scale": found.scale, "unidirectional": int(found.causal)}
    query = found.query.joined(found.node)
    if found.cache is None and (found.key.source() is None or found.value.source() is None):
        keys = [found.key.four(found.node), found.value.four(found.node)]  # it takes (B, H, T, D) as well
    else:
        keys = list(joined(found)[1:])
    inputs = [query, *keys, None, None, bias(found), *past(found)]
    node = insert(found.node, "MultiHeadAttention", inputs, attributes, domain=CONTRIB, outputs=3 if found.cache else 1)
    take_over(found, node, guard=found.guarded and found.may_be_nan)
