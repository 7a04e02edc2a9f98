"""Several MatMuls of one input -> one MatMul and a Split: the inverse of SeparateQKV.

One large product keeps more cores busy than three small ones; the Split costs a copy. Which wins is for a
measurement to say.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeai.graph.constants import add_initializer
from edgeai.graph.heads import is_op
from edgeai.graph.projection import Projection
from edgeai.graph.rewriting import insert, int64s, replace

_SPLIT_SIZES_AS_INPUT_SINCE = 13


class PackQKV(ir.passes.InPlacePass):
    """Where all have a bias or none has. Readers of the parts see what they saw."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if model.opset_imports.get("", 0) < _SPLIT_SIZES_AS_INPUT_SINCE:
            return ir.passes.PassResult(model, modified=False)
        groups: dict[tuple[ir.Value, object, bool], list[Projection]] = {}
        for node in model.graph:
            found = Projection.starting_at(node) if is_op(node, "MatMul") else None
            if found is not None:
                key = (found.x, found.weight.dtype, found.bias is not None)
                groups.setdefault(key, []).append(found)
        packed = [group for group in groups.values() if len(group) > 1]
        for group in packed:
            _pack(model.graph, group)
        return ir.passes.PassResult(model, modified=bool(packed))


def _pack(graph: ir.Graph, group: list[Projection]) -> None:
    nodes = {projection.output.producer() for projection in group}
    first = next(node for node in graph if node in nodes)
    name = f"{group[0].name}_packed"
    weight = np.concatenate([projection.weight for projection in group], axis=1)
    product = insert(first, "MatMul", [group[0].x, add_initializer(graph, name, ir.tensor(weight))]).outputs[0]
    biases = [projection.bias for projection in group if projection.bias is not None]
    if biases:
        offset = add_initializer(graph, f"{name}_bias", ir.tensor(np.concatenate(biases)))
        product = insert(first, "Add", [product, offset]).outputs[0]
    widths = int64s(graph, *(projection.weight.shape[1] for projection in group))
    split = insert(first, "Split", [product, widths], {"axis": -1}, outputs=len(group))
    for projection, part in zip(group, split.outputs, strict=True):
        replace(projection.output, part)
