"""Split(MatMul(x, W) + b) -> one MatMul for each part.

The Split copies what the product has just written. Three products of a third each write it where it is wanted.
"""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir

from edgeai.graph.constants import add_initializer
from edgeai.graph.heads import is_op
from edgeai.graph.projection import Projection
from edgeai.graph.rewriting import insert, replace
from edgeai.graph.shapes import numbers


class SeparateQKV(ir.passes.InPlacePass):
    """Where the product's output goes to the Split alone. Run SplitHeads before it."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            if node.graph is not None and is_op(node, "Split"):
                modified |= _separate(model.graph, node)
        return ir.passes.PassResult(model, modified)


def _separate(graph: ir.Graph, split: ir.Node) -> bool:
    packed = split.inputs[0]
    projection = None if packed is None else Projection.ending_in(packed)
    if packed is None or projection is None or len(list(packed.uses())) != 1 or packed.is_graph_output():
        return False
    rank = None if packed.shape is None else len(packed.shape)
    axis = split.attributes.get_int("axis", 0)
    if axis != -1 and (rank is None or axis != rank - 1):
        return False
    widths = _widths(split, projection.weight.shape[1])
    if widths is None:
        return False
    bounds = list(itertools.accumulate(widths, initial=0))
    for output, start, end in zip(split.outputs, bounds, bounds[1:], strict=False):
        if not output.uses() and not output.is_graph_output():
            continue
        name = f"{projection.name}_{start}_{end}"
        weight = np.ascontiguousarray(projection.weight[:, start:end])
        product = insert(split, "MatMul", [projection.x, add_initializer(graph, name, ir.tensor(weight))]).outputs[0]
        if projection.bias is not None:
            bias = add_initializer(graph, f"{name}_bias", ir.tensor(projection.bias[start:end].copy()))
            product = insert(split, "Add", [product, bias]).outputs[0]
        replace(output, product)
    return True


def _widths(split: ir.Node, width: int) -> tuple[int, ...] | None:
    """The parts' widths; None if they are not fixed."""
    if len(split.inputs) > 1 and split.inputs[1] is not None:
        given = numbers(split.inputs[1])
        fixed = tuple(size for size in given or () if isinstance(size, int))
        return fixed if given is not None and len(fixed) == len(split.outputs) and sum(fixed) == width else None
    count = len(split.outputs)
    return (width // count,) * count if width % count == 0 else None
