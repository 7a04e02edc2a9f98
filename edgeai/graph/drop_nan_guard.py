"""Where(IsNaN(softmax), 0, softmax) -> softmax, where a single mask of finite numbers is added to float32 scores.

torch's exporter writes this around every attention with a mask. Such a Softmax is NaN only if a score is, and zeros
would hide that. OpenVINO's provider does not know IsNaN: it gets a graph for each layer, and the CPU provider what
stands between them (`benchmarks/openvino_provider.py`).
"""

from __future__ import annotations

import onnx_ir as ir

from edgeai.graph.heads import is_op
from edgeai.graph.rewriting import prune
from edgeai.graph.sdpa import find


class DropNaNGuard(ir.passes.InPlacePass):
    """A mask of minus infinities keeps its guard: rows that it hides throughout are zeros."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for found in find(model.graph):
            if not found.guarded or not is_op(found.node, "MatMul") or found.may_be_nan:
                continue
            guard = found.node.inputs[0].producer() if found.node.inputs[0] is not None else None
            assert guard is not None
            found.node.replace_input_with(0, guard.inputs[2])
            prune(guard)
            modified = True
        return ir.passes.PassResult(model, modified)
