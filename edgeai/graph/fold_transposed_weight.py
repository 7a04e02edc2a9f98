"""MatMul(x, Transpose(weight)) -> MatMul(x, transposed weight).

A tied LM head is exported as a Transpose of the embedding. Quantizers look for constant weights, do not see one
there, and leave what is often the largest matrix of the model in float.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeai.graph.constants import add_initializer, constant

_CONSUMERS = frozenset({"MatMul", "Gemm"})


class FoldTransposedWeight(ir.passes.InPlacePass):
    """Other users of the weight (the embedding's Gather) and of the Transpose keep what they have."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            if node.op_type == "Transpose" and node.domain == "" and constant(node.inputs[0]) is not None:
                modified |= _fold(model.graph, node)
        return ir.passes.PassResult(model, modified)

    def ensures(self, model: ir.Model) -> None:
        for node in model.graph:
            left = _weight_uses(node.outputs[0]) if node.op_type == "Transpose" and node.domain == "" else []
            if left and constant(node.inputs[0]) is not None:
                raise ir.passes.PostconditionError(f"{node.name}: a transposed constant weight is left")


def _fold(graph: ir.Graph, transpose: ir.Node) -> bool:
    uses = _weight_uses(transpose.outputs[0])
    if not uses:
        return False
    weight = transpose.inputs[0]
    assert weight is not None
    tensor = constant(weight)
    assert tensor is not None
    permutation = transpose.attributes.get_ints("perm", None)
    folded = np.ascontiguousarray(np.transpose(tensor.numpy(), permutation))
    value = add_initializer(graph, f"{weight.name}_transposed", ir.Tensor(folded, dtype=tensor.dtype))
    for user in uses:
        user.replace_input_with(1, value)
    output = transpose.outputs[0]
    if not output.uses() and not output.is_graph_output():
        graph.remove(transpose, safe=True)
        if not weight.uses() and not weight.is_graph_output() and weight.is_initializer():
            graph.initializers.pop(str(weight.name))
    return True


def _weight_uses(value: ir.Value) -> list[ir.Node]:
    return [node for node, index in value.uses() if index == 1 and node.op_type in _CONSUMERS and node.domain == ""]
