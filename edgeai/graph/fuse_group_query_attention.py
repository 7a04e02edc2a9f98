"""Causal attention with a cache -> ONNX Runtime's GroupQueryAttention.

The operator that shares one buffer between past and present where the runtime binds them so; the model's inputs and
outputs stay what they are. It is causal by itself: a graph that is not does not survive the proof.

In a decoder, all lengths are then read from the mask and the ids, none from the past. So the past may stand in a
longer buffer, whose rest is free, and be the present too: the model's metadata says so, and the runtime binds it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from edgeai.graph.constants import add_initializer
from edgeai.graph.rewriting import CONTRIB, insert, int64s, replace
from edgeai.graph.sdpa import Sdpa, find
from edgeai.graph.sdpa_rewriting import bias, joined, take_over
from edgeai.runtime.kv_cache import CACHE_KEY, IDS, IN_PLACE, MASK, PAST, PRESENT

_SHAPE_SLICES_SINCE = 15
_HEAD_MULTIPLE = 8  # what ONNX Runtime 1.31's kernels take


class FuseGroupQueryAttention(ir.passes.InPlacePass):
    """Where keys and values are appended to a cache. The mask stays, as a bias."""

    writes_contrib = True

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        common.ShapeInferencePass(data_prop=True)(model)
        matches = [
            found for found in find(model.graph) if found.cache is not None and found.query.size % _HEAD_MULTIPLE == 0
        ]
        if model.opset_imports.get("", 0) < _SHAPE_SLICES_SINCE or not matches:
            return ir.passes.PassResult(model, modified=False)
        model.graph.opset_imports.setdefault(CONTRIB, 1)
        for found in matches:
            _fuse(found)
        if _read_lengths_elsewhere(model.graph):
            model.metadata_props[CACHE_KEY] = IN_PLACE
        return ir.passes.PassResult(model, modified=True)


def _fuse(found: Sdpa) -> None:
    assert found.cache is not None
    before, graph = found.node, found.node.graph
    assert isinstance(graph, ir.Graph)
    query, key, value = joined(found)
    # the length of past and new keys together, and for each row of the batch the index of the last of them
    lengths = [
        insert(before, "Shape", [tensor], {"start": axis, "end": axis + 1}).outputs[0]
        for tensor, axis in ((found.cache.past_key, 2), (key, 1))
    ]
    total = insert(before, "Add", lengths).outputs[0]
    flat = insert(before, "Squeeze", [total, int64s(graph, 0)]).outputs[0]
    scalar = insert(before, "Cast", [flat], {"to": int(ir.DataType.INT32)}).outputs[0]
    one = add_initializer(graph, "one_int32", ir.tensor(np.array(1, np.int32)))
    last = insert(before, "Sub", [scalar, one]).outputs[0]
    batch = insert(before, "Shape", [query], {"start": 0, "end": 1}).outputs[0]
    lasts = insert(before, "Expand", [last, batch]).outputs[0]
    attributes = {"num_heads": found.query.count, "kv_num_heads": found.key.count, "scale": found.scale}
    caches = [found.cache.past_key, found.cache.past_value]
    inputs = [query, key, value, *caches, lasts, scalar, None, None, None, bias(found)]
    node = insert(before, "GroupQueryAttention", inputs, attributes, domain=CONTRIB, outputs=3)
    take_over(found, node)


def _read_lengths_elsewhere(graph: ir.Graph) -> bool:
    """Make no length depend on how long the past's buffers are. False where the graph is no decoder, or needs to."""
    inputs, outputs = ({value.name: value for value in values} for values in (graph.inputs, graph.outputs))
    pasts = [value for name, value in inputs.items() if name and name.startswith(PAST)]
    if IDS not in inputs or MASK not in inputs or not pasts:
        return False
    lengths = []
    for past in pasts:
        for node, index in past.uses():
            if node.op_type == "Shape" and _axis(node) == 2:
                lengths.append(node)
            elif node.op_type == "GroupQueryAttention" and index in (3, 4):
                present = outputs.get(PRESENT + (past.name or "").removeprefix(PAST))
                if present is None or node.outputs[index - 2] is not present:
                    return False
            elif node.op_type != "Shape" or _axis(node) not in (0, 1, 3):
                return False
    for node in lengths:
        total, new = (insert(node, "Shape", [inputs[name]], {"start": 1, "end": 2}).outputs[0] for name in (MASK, IDS))
        replace(node.outputs[0], insert(node, "Sub", [total, new]).outputs[0])
    graph.sort()
    return True


def _axis(node: ir.Node) -> int | None:
    """The one axis whose length a Shape reads."""
    start, end = (node.attributes.get_int(name, None) for name in ("start", "end"))
    return start if start is not None and start >= 0 and end == start + 1 else None
