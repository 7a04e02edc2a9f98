"""What every attention operator needs around it: one bias of full height, the heads joined again, caches handed on."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgeai.graph.constants import add_initializer
from edgeai.graph.heads import SWAP_HEADS, is_op
from edgeai.graph.rewriting import insert, int64s, only_reader, replace
from edgeai.graph.sdpa import Fill, Sdpa
from edgeai.graph.shapes import Size, numbers, sizes


def bias(found: Sdpa, floor: ir.Value | None = None) -> ir.Value | None:
    """What is added to the scores, (B or 1, H or 1, S, T), at least `floor`, written in front of the attention.

    ONNX Runtime's kernels broadcast batch and heads, but not the queries: a padding mask is expanded over them.
    """
    parts = [_filled(found, part) if isinstance(part, Fill) else part for part in found.biases]
    if not parts:
        return None
    total = parts[0]
    for part in parts[1:]:
        total = insert(found.node, "Add", [total, part]).outputs[0]
    if floor is not None:
        shape, total = total.shape, insert(found.node, "Max", [total, floor]).outputs[0]
        total.shape, total.type = shape, ir.TensorType(_float_of(found))
    return _full_height(found, total)


def mask(found: Sdpa) -> ir.Value | None:
    """As `bias`, for the standard Attention: a single mask that hides for good what it marks stays bool.

    ONNX Runtime's kernel answers zeros where every score of a row is as low as the dtype goes. Where the graph
    takes the mean then, the bias is kept above that.
    """
    parts = found.biases
    if len(parts) == 1 and isinstance(parts[0], Fill) and not parts[0].where and parts[0].number == -math.inf:
        return _full_height(found, parts[0].mask)
    if not parts or found.may_be_all_masked:
        return bias(found)
    return bias(found, _scalar(found, "lowest_bias", -30000.0 if _float_of(found) == ir.DataType.FLOAT16 else -1e30))


def saves_work(found: Sdpa) -> bool:
    """Is it spelled out, so that one node replaces many, or are its heads but views of (B, S, H*D) tensors?"""
    viewed = all(heads.source() is not None for heads in (found.query, found.key, found.value))
    return viewed or is_op(found.node, "MatMul")


def joined(found: Sdpa) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Query, key and value as (B, S, H*D)."""
    query, key, value = (heads.joined(found.node) for heads in (found.query, found.key, found.value))
    return query, key, value


def past(found: Sdpa) -> list[ir.Value]:
    return [] if found.cache is None else [found.cache.past_key, found.cache.past_value]


def take_over(found: Sdpa, node: ir.Node, *, guard: bool = False) -> None:
    """Let `node`, whose outputs are (B, S, H*D) and the new caches, stand for what `found` computed.

    With `guard`, rows that are NaN because nothing may be seen become zeros.
    """
    graph = found.node.graph
    assert isinstance(graph, ir.Graph)
    output = node.outputs[0]
    if guard:
        nan = insert(found.node, "IsNaN", [output]).outputs[0]
        output = insert(found.node, "Where", [nan, _scalar(found, "zero", 0.0), output]).outputs[0]
    if found.cache is not None:
        replace(found.cache.present_key, node.outputs[1])
        replace(found.cache.present_value, node.outputs[2])
    old = found.node.outputs[0]
    if (flat := _flattened(found, old)) is not None:
        replace(flat, output)
    else:
        split = int64s(graph, 0, 0, found.query.count, found.value.size)
        apart = insert(found.node, "Reshape", [output, split]).outputs[0]
        replace(old, insert(found.node, "Transpose", [apart], {"perm": SWAP_HEADS}).outputs[0])
    graph.sort()


def _flattened(found: Sdpa, output: ir.Value) -> ir.Value | None:
    """(B, S, H*D), where the graph makes that of the output and nothing else."""
    transpose = only_reader(output)
    if transpose is None or not is_op(transpose, "Transpose"):
        return None
    if transpose.attributes.get_ints("perm", None) != SWAP_HEADS:
        return None
    reshape = only_reader(transpose.outputs[0])
    shape = sizes(reshape.outputs[0]) if reshape is not None and is_op(reshape, "Reshape") else None
    if reshape is None or shape is None or len(shape) != 3 or reshape.inputs[0] is not transpose.outputs[0]:
        return None
    wanted = numbers(reshape.inputs[1]) or ()
    width: Size = found.query.count * found.value.size
    # with the width fixed and one of batch and positions as it was, the other can only be as it was
    return reshape.outputs[0] if width in (shape[2], *wanted[2:]) else None


def _filled(found: Sdpa, fill: Fill) -> ir.Value:
    low, zero = _scalar(found, "masked", fill.number), _scalar(found, "seen", 0.0)
    branches = [low, zero] if fill.where else [zero, low]
    output = insert(found.node, "Where", [fill.mask, *branches]).outputs[0]
    output.shape, output.type = fill.mask.shape, ir.TensorType(_float_of(found))
    return output


def _float_of(found: Sdpa) -> ir.DataType:
    dtype = found.query.tensor.dtype
    return dtype if dtype is not None and dtype.is_floating_point() else ir.DataType.FLOAT


def _scalar(found: Sdpa, name: str, value: float) -> ir.Value:
    graph = found.node.graph
    assert isinstance(graph, ir.Graph)
    return add_initializer(graph, name, ir.tensor(np.array(value, _float_of(found).numpy())))


def _full_height(found: Sdpa, value: ir.Value) -> ir.Value:
    """(B or 1, H or 1, S, T) of anything that broadcasts to it."""
    graph = found.node.graph
    assert isinstance(graph, ir.Graph)
    shape = sizes(value)
    if shape is not None and len(shape) == 4 and shape[2] == found.query.length and shape[3] != 1:
        return value
    if isinstance(found.query.length, int):
        rows = int64s(graph, found.query.length)
    else:  # read from before the heads were split, so that nothing keeps the split alive
        source = found.query.source()
        axis = 1 if source is not None or found.query.last else 2
        rows = insert(found.node, "Shape", [source or found.query.tensor], {"start": axis, "end": axis + 1}).outputs[0]
    one = int64s(graph, 1)
    target = insert(found.node, "Concat", [one, one, rows, one], {"axis": 0}).outputs[0]
    return insert(found.node, "Expand", [value, target]).outputs[0]
