"""What is known of shapes before the model runs: sizes by number where they are fixed, by origin where they are not.

Exporters compute shapes inside the graph (Shape, Slice, Concat, ...). Following that arithmetic tells whether a
Reshape only splits heads, or whether a scale is one fixed number, without running anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import onnx_ir as ir

from edgeai.graph.constants import constant

# One size: its number, the name that the graph declares for it, or where it is read from (value, axis).
Size = int | str | tuple[ir.Value, int]
_DEEPEST = 32  # nodes followed in one direction: far more than any exporter writes for one shape


def sizes(value: ir.Value | None) -> tuple[Size, ...] | None:
    """The shape of `value`; None if not even its rank is known."""
    return _Follower().sizes(value, _DEEPEST)


def numbers(value: ir.Value | None) -> tuple[Size, ...] | None:
    """The elements of a tensor of integers (a shape, mostly) in order; None where they cannot be told."""
    return _Follower().numbers(value, _DEEPEST)


def number(value: ir.Value | None) -> float | None:
    """The one number that `value` always holds, computed from constants and fixed sizes; None if it may change.

    An int where the tensor has integers.
    """
    return _Follower().number(value, _DEEPEST)


class _Follower:
    """Follows every value once: shapes are computed from shapes, and a graph joins its paths again and again."""

    def __init__(self) -> None:
        self._numbers: dict[ir.Value, tuple[Size, ...] | None] = {}
        self._number: dict[ir.Value, float | None] = {}

    def sizes(self, value: ir.Value | None, depth: int) -> tuple[Size, ...] | None:
        if value is None or not depth:
            return None
        node = value.producer()
        found: tuple[Size | None, ...] | None = None
        if node is not None and node.domain == "":
            if node.op_type == "Reshape":
                found = self._reshaped(node, depth - 1)
            elif node.op_type == "Split":
                found = self._split(node, value, depth - 1)
            elif node.op_type == "Transpose":
                before = self.sizes(node.inputs[0], depth - 1)
                order = node.attributes.get_ints("perm", None)
                found = None if before is None or order is None else tuple(before[axis] for axis in order)
        declared = value.shape
        if declared is None:
            return None if found is None else tuple(size or (value, axis) for axis, size in enumerate(found))
        if found is None or len(found) != len(declared):
            found = (None,) * len(declared)
        return tuple(
            dim if isinstance(dim, int) else found[axis] or dim.value or (value, axis)
            for axis, dim in enumerate(declared)
        )

    def _reshaped(self, node: ir.Node, depth: int) -> tuple[Size | None, ...] | None:
        """What is asked for; 0 stands for the input's size on that axis, -1 for what is left over of the input's."""
        wanted, before = self.numbers(node.inputs[1], depth), self.sizes(node.inputs[0], depth)
        if wanted is None or before is None:
            return None if wanted is None else tuple(None if size in (0, -1) else size for size in wanted)
        zero_is_copy = node.attributes.get_int("allowzero", 0) == 0
        target = [
            before[i] if size == 0 and zero_is_copy and i < len(before) else size for i, size in enumerate(wanted)
        ]
        left, given = list(before), list[Size]()
        for size in target:
            if size in left:
                left.remove(size)
            elif size != -1:
                given.append(size)
        whole, parts = ([size for size in some if isinstance(size, int)] for some in (left, given))
        fixed = len(whole) == len(left) and len(parts) == len(given) and math.prod(parts) > 0
        rest = math.prod(whole) // math.prod(parts) if fixed else None
        return tuple(rest or None if size == -1 else size or None for size in target)

    def _split(self, node: ir.Node, value: ir.Value, depth: int) -> tuple[Size | None, ...] | None:
        before = self.sizes(node.inputs[0], depth)
        widths = self.numbers(node.inputs[1], depth) if len(node.inputs) > 1 else None
        if before is None or widths is None or len(widths) != len(node.outputs):
            return None
        found: list[Size | None] = list(before)
        found[node.attributes.get_int("axis", 0)] = widths[list(node.outputs).index(value)]
        return tuple(found)

    def numbers(self, value: ir.Value | None, depth: int) -> tuple[Size, ...] | None:
        if value is None or value in self._numbers:
            return None if value is None else self._numbers[value]
        tensor, node = constant(value), value.producer()
        found: tuple[Size, ...] | None = None
        if tensor is not None:
            found = tuple(int(item) for item in tensor.numpy().ravel()) if tensor.dtype.is_integer() else None
        elif node is not None and node.domain == "" and depth and node.op_type in _FOLLOWED:
            found = _FOLLOWED[node.op_type](self, node, depth - 1)
        self._numbers[value] = found
        return found

    def number(self, value: ir.Value | None, depth: int) -> float | None:
        if value is None or value in self._number:
            return None if value is None else self._number[value]
        tensor = constant(value)
        if tensor is not None:
            array = tensor.numpy().ravel()
            found = None if array.size != 1 else int(array[0]) if tensor.dtype.is_integer() else float(array[0])
        elif (whole := self.numbers(value, depth)) is not None:
            found = whole[0] if len(whole) == 1 and isinstance(whole[0], int) else None
        else:
            found = self._computed(value.producer(), depth)
        self._number[value] = found
        return found

    def _computed(self, node: ir.Node | None, depth: int) -> float | None:
        if node is None or node.domain != "" or not depth or node.op_type not in _UNARY.keys() | _BINARY.keys():
            return None
        operands = []
        for operand in node.inputs[: 1 if node.op_type in _UNARY else 2]:
            if (item := self.number(operand, depth - 1)) is None:
                return None
            operands.append(item)
        try:
            if node.op_type in _UNARY:
                return _UNARY[node.op_type](operands[0])
            return _BINARY[node.op_type](operands[0], operands[1])
        except (ValueError, ZeroDivisionError, OverflowError):  # such a scale scales nothing
            return None

    def shape(self, node: ir.Node, depth: int) -> tuple[Size, ...] | None:
        whole = self.sizes(node.inputs[0], depth)
        start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", None)
        return None if whole is None else whole[start:end]

    def slice(self, node: ir.Node, depth: int) -> tuple[Size, ...] | None:
        whole = self.numbers(node.inputs[0], depth)
        bounds = [self.number(operand, depth) for operand in (*node.inputs[1:3], *node.inputs[4:5])]
        if whole is None or None in bounds:
            return None
        if len(node.inputs) > 3 and self.number(node.inputs[3], depth) not in (0, -1):
            return None
        return whole[slice(*(int(bound) for bound in bounds if bound is not None))]

    def gather(self, node: ir.Node, depth: int) -> tuple[Size, ...] | None:
        whole, indices = self.numbers(node.inputs[0], depth), self.numbers(node.inputs[1], depth)
        if whole is None or indices is None:
            return None
        chosen = [index for index in indices if isinstance(index, int) and -len(whole) <= index < len(whole)]
        return tuple(whole[index] for index in chosen) if len(chosen) == len(indices) else None

    def concat(self, node: ir.Node, depth: int) -> tuple[Size, ...] | None:
        parts = [self.numbers(operand, depth) for operand in node.inputs]
        return tuple(size for part in parts for size in part or ()) if None not in parts else None

    def same(self, node: ir.Node, depth: int) -> tuple[Size, ...] | None:
        return self.numbers(node.inputs[0], depth)

    def cast(self, node: ir.Node, depth: int) -> tuple[Size, ...] | None:
        integers = ir.DataType(node.attributes.get_int("to", 1)).is_integer()
        return self.numbers(node.inputs[0], depth) if integers else None


_FOLLOWED: Mapping[str, Callable[[_Follower, ir.Node, int], tuple[Size, ...] | None]] = {
    "Shape": _Follower.shape, "Slice": _Follower.slice, "Gather": _Follower.gather, "Concat": _Follower.concat,
    "Cast": _Follower.cast, "Unsqueeze": _Follower.same, "Squeeze": _Follower.same, "Reshape": _Follower.same,
    "Identity": _Follower.same,
}  # fmt: skip
_UNARY: Mapping[str, Callable[[float], float]] = {
    "Cast": float, "CastLike": float, "Unsqueeze": lambda x: x, "Squeeze": lambda x: x, "Sqrt": math.sqrt,
    "Reciprocal": lambda x: 1 / x,
}  # fmt: skip
_BINARY: Mapping[str, Callable[[float, float], float]] = {
    "Add": lambda x, y: x + y, "Mul": lambda x, y: x * y, "Pow": lambda x, y: x**y,
    "Div": lambda x, y: x // y if isinstance(x, int) else x / y,
}  # fmt: skip
