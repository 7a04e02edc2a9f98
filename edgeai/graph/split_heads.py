"""Packed projections in any spelling -> one Split of the projection's output.

qkv.view(B, S, 3, H, D).permute(2, 0, 3, 1, 4) and slices of the last axis say the same as a Split, but hide from
every other pass which columns of the weight make the query.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
import onnx_ir.passes.common as common

from edgeai.graph.heads import SWAP_HEADS, is_op
from edgeai.graph.rewriting import insert, int64s, replace
from edgeai.graph.shapes import number, numbers, sizes

_PACKED_FIRST = (2, 0, 3, 1, 4)  # (B, S, 3, H, D) -> (3, B, H, S, D)
_AXES_AS_INPUT_SINCE = 13


class SplitHeads(ir.passes.InPlacePass):
    """Only where every part is taken, each once."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if model.opset_imports.get("", 0) < _AXES_AS_INPUT_SINCE:
            return ir.passes.PassResult(model, modified=False)
        common.ShapeInferencePass(data_prop=True)(model)
        modified = False
        for node in list(model.graph):
            if node.graph is not None and is_op(node, "Reshape"):
                modified |= _split_view(model.graph, node)
        for value in [value for node in model.graph for value in node.outputs]:
            modified |= _split_slices(model.graph, value)
        return ir.passes.PassResult(model, modified)


def _split_view(graph: ir.Graph, reshape: ir.Node) -> bool:
    packed, shape = reshape.inputs[0], sizes(reshape.outputs[0])
    if packed is None or shape is None or len(shape) != 5 or len(sizes(packed) or ()) != 3:
        return False
    count, heads, size = shape[2:]
    if not isinstance(count, int) or not isinstance(heads, int) or not isinstance(size, int):
        return False
    for view, axis in _views(reshape):
        parts = dict(_parts(view, axis))
        if sorted(parts) != list(range(count)):
            continue
        outputs = _split(reshape, packed, [heads * size] * count)
        for index, part in parts.items():
            before = part.producer()
            assert before is not None
            apart = insert(before, "Reshape", [outputs[index], int64s(graph, 0, 0, heads, size)]).outputs[0]
            new = apart if axis == 2 else insert(before, "Transpose", [apart], {"perm": SWAP_HEADS}).outputs[0]
            replace(part, new)
        return True
    return False


def _views(reshape: ir.Node) -> Iterator[tuple[ir.Value, int]]:
    """Five-dimensional views of the projection, and which axis counts query, key and value."""
    yield reshape.outputs[0], 2
    for user, _ in reshape.outputs[0].uses():
        if is_op(user, "Transpose") and user.attributes.get_ints("perm", None) == _PACKED_FIRST:
            yield user.outputs[0], 0


def _parts(view: ir.Value, axis: int) -> Iterator[tuple[int, ir.Value]]:
    """What is taken out of `view` along `axis`, without that axis: by Gather, by Slice or by Split."""
    for user, _ in view.uses():
        if is_op(user, "Gather") and user.attributes.get_int("axis", 0) == axis:
            index = number(user.inputs[1])
            if index is not None and sizes(user.inputs[1]) == ():
                yield int(index), user.outputs[0]
        elif is_op(user, "Slice") and len(user.inputs) == 4:
            start, end, along = (number(operand) for operand in user.inputs[1:])
            if start is not None and end == start + 1 and along == axis:
                yield from ((int(start), part) for part in _squeezed(user.outputs[0], axis))
        elif is_op(user, "Split") and user.attributes.get_int("axis", 0) == axis:
            for index, output in enumerate(user.outputs):
                yield from ((index, part) for part in _squeezed(output, axis))


def _squeezed(value: ir.Value, axis: int) -> Iterator[ir.Value]:
    for user, _ in value.uses():
        if is_op(user, "Squeeze") and len(user.inputs) > 1 and numbers(user.inputs[1]) == (axis,):
            yield user.outputs[0]


def _split_slices(graph: ir.Graph, value: ir.Value) -> bool:
    """x[..., :a], x[..., a:b], x[..., b:] -> Split."""
    shape = sizes(value)
    if shape is None or not isinstance(shape[-1] if shape else None, int):
        return False
    slices = {}
    for user, _ in value.uses():
        if is_op(user, "Slice") and len(user.inputs) == 4:
            start, end, axis = (number(operand) for operand in user.inputs[1:])
            if start is not None and end is not None and axis in (-1, len(shape) - 1):
                slices[int(start)] = (int(end), user)
    ordered = sorted(slices.items())
    bounds = [0, *(end for _, (end, _) in ordered)]
    if len(ordered) < 2 or [start for start, _ in ordered] != bounds[:-1] or bounds[-1] != shape[-1]:
        return False
    nodes = set(slice_ for _, (_, slice_) in ordered)
    first = next(node for node in graph if node in nodes)
    outputs = _split(first, value, [end - start for start, (end, _) in ordered])
    for output, (_, (_, node)) in zip(outputs, ordered, strict=True):
        replace(node.outputs[0], output)
    return True


def _split(before: ir.Node, packed: ir.Value, widths: list[int]) -> tuple[ir.Value, ...]:
    graph = before.graph
    assert isinstance(graph, ir.Graph)
    inputs = [packed, int64s(graph, *widths)]
    return tuple(insert(before, "Split", inputs, {"axis": -1}, outputs=len(widths)).outputs)
