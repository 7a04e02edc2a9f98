"""A decoder's logits for the last positions only: of a prompt, all but the last are thrown away.

How many is an input with a default, all of them: who does not name it sees the same model.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeai.graph.constants import add_initializer, constant
from edgeai.graph.heads import is_op
from edgeai.graph.rewriting import CONTRIB, insert, int64s
from edgeai.graph.shapes import sizes
from edgeai.runtime.kv_cache import ALL_LOGITS, IDS, KEEP, LOGITS

_INT64_MAX = int(np.iinfo(np.int64).max)


class KeepLogits(ir.passes.InPlacePass):
    """Where logits are one product of (batch, seq, width) and a fixed matrix."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        product = next((value.producer() for value in graph.outputs if value.name == LOGITS), None)
        names = {value.name for value in graph.inputs}
        hidden = None if product is None else _hidden(product)
        if product is None or hidden is None or IDS not in names or KEEP in names:
            return ir.passes.PassResult(model, modified=False)
        keep = add_initializer(graph, KEEP, ir.tensor(np.array([ALL_LOGITS], np.int64)))
        keep.type, keep.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([1])
        graph.inputs.append(keep)
        start = insert(product, "Neg", [keep]).outputs[0]
        ends, axis = int64s(graph, _INT64_MAX), int64s(graph, 1)
        product.replace_input_with(0, insert(product, "Slice", [hidden, start, ends, axis]).outputs[0])
        return ir.passes.PassResult(model, modified=True)


def _hidden(product: ir.Node) -> ir.Value | None:
    """What is multiplied by a fixed matrix, or by one in blocks, if it is (batch, seq, width)."""
    blocks = (product.domain, product.op_type) == (CONTRIB, "MatMulNBits")
    if not blocks and not is_op(product, "MatMul"):
        return None
    hidden, matrix = product.inputs[:2]
    shape = sizes(hidden)
    return hidden if constant(matrix) is not None and shape is not None and len(shape) == 3 else None
