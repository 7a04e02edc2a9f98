"""Where a graph computes softmax(scale * Q K^T + bias) V, however its exporter spelled that.

One matcher reads what torch.export, TorchScript and hand-written models leave behind; what is to become of it is
for the passes. Letters: B batch, S queries, T keys, H heads, D head size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeai.graph.constants import constant
from edgeai.graph.heads import Heads, is_op
from edgeai.graph.rewriting import only_reader
from edgeai.graph.shapes import number, numbers, sizes

_KEYS_LAST, _KEYS_LAST_OF_BSHD = (0, 1, 3, 2), (0, 2, 3, 1)
# A score of a masked place is replaced by less than this: added instead, it swallows the score as well.
_SWALLOWS = -1e9


@dataclass(frozen=True)
class Fill:
    """Scores get `number` where `mask` (bool) is `where`."""

    mask: ir.Value
    number: float
    where: bool


@dataclass(frozen=True)
class Cache:
    """What stands before the new keys and values, and both together: all (B, H, ., D)."""

    past_key: ir.Value
    past_value: ir.Value
    present_key: ir.Value
    present_value: ir.Value


@dataclass(frozen=True)
class Sdpa:
    """One attention. `node` computes its output (B, H, S, D); `biases` are added to the scores (B, H, S, T).

    `guarded`: a row of scores without any finite one gives zeros, not NaN. Key and value are the new ones alone
    where there is a `cache`.
    """

    node: ir.Node
    query: Heads
    key: Heads
    value: Heads
    scale: float
    biases: tuple[ir.Value | Fill, ...] = ()
    causal: bool = False
    guarded: bool = False
    cache: Cache | None = None

    @property
    def grouped(self) -> bool:
        """Do several query heads share one key head?"""
        return self.query.count != self.key.count

    @property
    def may_be_all_masked(self) -> bool:
        """Could a whole row of scores be minus infinity?"""
        return not all(
            math.isfinite(bias.number) if isinstance(bias, Fill) else _is_finite(bias) for bias in self.biases
        )

    @property
    def may_be_nan(self) -> bool:
        """Could a row be NaN where every score is a number?

        The lowest float32 swallows a score. Two of them add up to minus infinity, and so does that of float16 with a
        score.
        """
        wide = self.query.tensor.dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE)
        return self.may_be_all_masked or len(self.biases) > 1 or not wide


def find(graph: ir.Graph) -> Iterator[Sdpa]:
    """Every attention in `graph` (not in its subgraphs), in order. The graph may be rewritten on the way."""
    for node in list(graph):
        if node.graph is None:
            continue
        found = _standard(node) if is_op(node, "Attention") else _spelled_out(node) if is_op(node, "MatMul") else None
        if found is not None:
            yield found


def _standard(node: ir.Node) -> Sdpa | None:
    """The ONNX operator (opset 23) on four-dimensional inputs, without its rarer features."""
    inputs = (*node.inputs, None, None, None)
    used = [output for output in node.outputs[1:] if output.uses() or output.is_graph_output()]
    softcap = node.attributes.get("softcap")
    if len(node.inputs) > 4 or used or (softcap is not None and softcap.as_float()):
        return None
    if "softmax_precision" in node.attributes:
        return None
    query, (key, value, cache) = Heads.of(node.inputs[0]), _cached(Heads.of(node.inputs[1]), Heads.of(node.inputs[2]))
    if query is None or key is None or value is None:
        return None
    mask = inputs[3]
    biases: tuple[ir.Value | Fill, ...] = () if mask is None else (mask,)
    if mask is not None and mask.dtype == ir.DataType.BOOL:
        biases = (Fill(mask, -math.inf, where=False),)
    scale = node.attributes.get_float("scale", None) or 1 / math.sqrt(query.size)
    causal = node.attributes.get_int("is_causal", 0) == 1
    return _with_cache(Sdpa(node, query, key, value, scale, biases, causal, bool(biases)), cache)


def _spelled_out(node: ir.Node) -> Sdpa | None:
    """From the last product back to the first one."""
    softmax, guarded = _softmax(node.inputs[0])
    if softmax is None or softmax.inputs[0] is None:
        return None
    scale, biases = 1.0, list[ir.Value | Fill]()
    scores: ir.Value | None = softmax.inputs[0]
    while True:
        step = None if scores is None else scores.producer()
        if step is None or scores is None or only_reader(scores) is None:
            return None
        if is_op(step, "MatMul"):
            break
        if is_op(step, "Mul", "Div"):
            scores, factor = _scaled(step)
            scale *= factor
        elif scale == 1.0 and is_op(step, "Add", "Where"):  # beneath a factor a bias would be scaled too
            scores, bias = _biased(step)
            biases += [] if bias is None else [bias]
        else:
            return None
    (left, by_left), (right, by_right) = (_unscaled(operand) for operand in step.inputs)
    query, keys = Heads.of(left), _transposed_keys(right)
    key, value, cache = _cached(keys, Heads.of(node.inputs[1]))
    if query is None or key is None or value is None or query.size != key.size:
        return None
    found = Sdpa(node, query, key, value, scale * by_left * by_right, tuple(biases), guarded=guarded)
    return _with_cache(_causal(found) if cache is None else found, cache)


def _softmax(value: ir.Value | None) -> tuple[ir.Node | None, bool]:
    """The Softmax over the last axis whose output `value` is, and whether its NaNs are replaced by zeros."""
    node, guarded = None if value is None else value.producer(), False
    if node is not None and is_op(node, "Where"):
        test = node.inputs[0].producer() if node.inputs[0] is not None else None
        inner = node.inputs[2]
        if not is_op(test, "IsNaN") or test is None or test.inputs[0] is not inner or number(node.inputs[1]) != 0:
            return None, False
        if inner is None or len(list(inner.uses())) != 2 or inner.is_graph_output():
            return None, False
        if only_reader(node.outputs[0]) is None:
            return None, False
        node, guarded = inner.producer(), True
    if node is None or not is_op(node, "Softmax") or (not guarded and only_reader(node.outputs[0]) is None):
        return None, False
    return (node, guarded) if node.attributes.get_int("axis", -1) in (-1, 3) else (None, False)


def _scaled(node: ir.Node) -> tuple[ir.Value | None, float]:
    """x and s of x * s, s * x or x / s with one fixed number s."""
    left, right = node.inputs
    by = number(right)
    if by is None and node.op_type == "Mul":
        left, by = right, number(left)
    if by is None or not math.isfinite(by) or by == 0:
        return None, 1.0
    return left, 1 / by if node.op_type == "Div" else float(by)


def _unscaled(value: ir.Value | None) -> tuple[ir.Value | None, float]:
    node = None if value is None else value.producer()
    if node is None or not is_op(node, "Mul", "Div"):
        return value, 1.0
    inner, factor = _scaled(node)
    return (value, 1.0) if inner is None else (inner, factor)


def _biased(node: ir.Node) -> tuple[ir.Value | None, ir.Value | Fill | None]:
    """The scores before a mask was added to them, or written over them, and that mask."""
    if node.op_type == "Add":
        for scores, bias in (tuple(node.inputs), tuple(reversed(node.inputs))):
            if scores is not None and _leads_to_product(scores):
                return scores, bias
        return None, None
    mask, *branches = node.inputs
    for index, branch in enumerate(branches):
        filled = number(branch)
        if mask is not None and filled is not None and filled <= _SWALLOWS:
            return branches[1 - index], Fill(mask, filled, where=index == 0)
    return None, None


def _leads_to_product(value: ir.Value) -> bool:
    """Is it computed from one product by nothing but factors and masks?"""
    node = value.producer()
    while node is not None and is_op(node, "Mul", "Div", "Add", "Where"):
        inner = _scaled(node)[0] if is_op(node, "Mul", "Div") else _biased(node)[0]
        node = None if inner is None else inner.producer()
    return is_op(node, "MatMul")


def _transposed_keys(value: ir.Value | None) -> Heads | None:
    """The keys whose transpose (B, H, D, T) `value` is."""
    node = None if value is None else value.producer()
    if node is None:
        return None
    order = node.attributes.get_ints("perm", None) if is_op(node, "Transpose") else None
    if order == _KEYS_LAST:
        keys, factor = _unscaled(node.inputs[0])
        return Heads.of(keys) if factor == 1.0 else None
    if order == _KEYS_LAST_OF_BSHD:
        return Heads.of(node.inputs[0], last=True)
    return _transposed_flat(node) if is_op(node, "Reshape") else None


def _transposed_flat(last: ir.Node) -> Heads | None:
    """torch's exporter joins batch and heads before it transposes: (B, H, T, D) -> (BH, T, D) -> (BH, D, T) -> ..."""
    transpose = last.inputs[0].producer() if last.inputs[0] is not None else None
    if transpose is None or not is_op(transpose, "Transpose") or transpose.attributes.get_ints("perm", ()) != (0, 2, 1):
        return None
    first = transpose.inputs[0].producer() if transpose.inputs[0] is not None else None
    keys = first.inputs[0] if first is not None and is_op(first, "Reshape") else None
    whole = sizes(keys)
    if first is None or keys is None or whole is None or len(whole) != 4:
        return None
    flat, final = numbers(first.inputs[1]), numbers(last.inputs[1])
    batch, heads, length, size = whole
    joins = flat is not None and len(flat) == 3 and flat[1:] == (length, size)
    splits = final is not None and len(final) == 4 and final[1:] == (heads, size, length) and final[0] in (batch, -1)
    return Heads.of(keys) if joins and splits else None


def _cached(key: Heads | None, value: Heads | None) -> tuple[Heads | None, Heads | None, Cache | None]:
    """New keys and values, and the cache, where both are concatenations along the positions."""
    keys, values = _concatenated(key), _concatenated(value)
    if key is None or value is None or keys is None or values is None:
        return key, value, None
    (past_key, new_key), (past_value, new_value) = keys, values
    return new_key, new_value, Cache(past_key, past_value, key.tensor, value.tensor)


def _concatenated(heads: Heads | None) -> tuple[ir.Value, Heads] | None:
    node = None if heads is None or heads.last else heads.tensor.producer()
    if node is None or not is_op(node, "Concat") or len(node.inputs) != 2:
        return None
    past, new = node.inputs[0], Heads.of(node.inputs[1])
    joins = node.attributes.get_int("axis", 0) in (2, -2)
    return (past, new) if joins and past is not None and new is not None else None


def _with_cache(found: Sdpa, cache: Cache | None) -> Sdpa:
    """Unless the attention needs to know the whole of its keys or values beforehand, for its mask for example."""
    if cache is None:
        return found
    masks = [bias.mask if isinstance(bias, Fill) else bias for bias in found.biases]
    whole = {cache.present_key, cache.present_value}
    # causal without a cache counts from the first key, with one from the last
    if found.causal or any(
        _depends(value, whole) for value in (*masks, found.query.tensor, found.key.tensor, found.value.tensor)
    ):
        key, value = Heads.of(cache.present_key), Heads.of(cache.present_value)
        assert key is not None and value is not None
        return Sdpa(found.node, found.query, key, value, found.scale, found.biases, found.causal, found.guarded)
    return Sdpa(
        found.node, found.query, found.key, found.value, found.scale, found.biases, found.causal, found.guarded, cache
    )


def _depends(value: ir.Value, on: set[ir.Value]) -> bool:
    seen, waiting = set[ir.Value](), [value]
    while waiting:
        here = waiting.pop()
        if here in on:
            return True
        if here not in seen and (node := here.producer()) is not None:
            waiting += [operand for operand in node.inputs if operand is not None]
        seen.add(here)
    return False


def _causal(found: Sdpa) -> Sdpa:
    """With the mask that torch writes for `is_causal` as a flag: Where(Trilu(ones(S, T)) == 0, -inf, 0)."""
    if len(found.biases) != 1 or isinstance(found.biases[0], Fill) or found.query.length != found.key.length:
        return found
    where = found.biases[0].producer()
    equal = where.inputs[0].producer() if where is not None and is_op(where, "Where") and where.inputs[0] else None
    lower = equal.inputs[0].producer() if equal is not None and is_op(equal, "Equal") and equal.inputs[0] else None
    if where is None or equal is None or lower is None or not is_op(lower, "Trilu") or len(lower.inputs) > 1:
        return found
    ones = lower.inputs[0].producer() if lower.inputs[0] else None
    filled, kept = number(where.inputs[1]), number(where.inputs[2])
    square = ones is not None and is_op(ones, "Expand") and number(ones.inputs[0]) == 1
    square = square and numbers(ones.inputs[1] if ones else None) == (found.query.length, found.key.length)
    masks = filled is not None and filled <= _SWALLOWS and kept == 0 and number(equal.inputs[1]) == 0
    if not square or not masks or lower.attributes.get_int("upper", 1) != 0:
        return found
    return Sdpa(found.node, found.query, found.key, found.value, found.scale, (), True, False)


def _is_finite(value: ir.Value | None, depth: int = 16) -> bool:
    """Can it be told that no element is infinite?"""
    if (tensor := constant(value)) is not None:
        return bool(np.isfinite(tensor.numpy()).all())
    node = None if value is None or not depth else value.producer()
    if node is None:
        return False
    if is_op(node, "Cast"):
        source = node.inputs[0].dtype if node.inputs[0] is not None else None
        return source is not None and (source.is_integer() or source == ir.DataType.BOOL)
    if is_op(node, "Expand", "Unsqueeze", "Reshape", "Transpose", "Slice", "Identity"):
        return _is_finite(node.inputs[0], depth - 1)
    operands = node.inputs[1:] if is_op(node, "Where") else node.inputs if is_op(node, "Mul", "Sub", "Neg") else ()
    return bool(operands) and all(_is_finite(operand, depth - 1) for operand in operands)
