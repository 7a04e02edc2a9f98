"""x * (1 + erf(x / sqrt 2)) / 2, or its tanh approximation, spelled out -> Gelu (Hendrycks & Gimpel, arXiv:1606.08415).

Exporters wrote it in five to eight nodes until opset 20 brought the operator.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from edgeai.graph.heads import is_op
from edgeai.graph.rewriting import CONTRIB, insert, only_reader, replace
from edgeai.graph.shapes import number

GELU_SINCE = 20
_CUBIC = 0.044715


class FuseGelu(ir.passes.InPlacePass):
    """Before opset 20 it writes ONNX Runtime's own operator where `contrib` allows it, else nothing."""

    def __init__(self, *, contrib: bool = False) -> None:
        super().__init__()
        self.contrib = contrib

    @property
    def writes_contrib(self) -> bool:
        return self.contrib

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        standard = model.opset_imports.get("", 0) >= GELU_SINCE
        modified = False
        for node in list(model.graph) if standard or self.contrib else ():
            if node.graph is None or not is_op(node, "Erf", "Tanh"):
                continue
            x = _of_erf(node) if node.op_type == "Erf" else _of_tanh(node)
            output = None if x is None else _product(node, x)
            if x is None or output is None:
                continue
            before = output.producer()
            assert before is not None
            if standard:
                attributes = {"approximate": "none" if node.op_type == "Erf" else "tanh"}
                new = insert(before, "Gelu", [x], attributes)
            else:
                model.graph.opset_imports.setdefault(CONTRIB, 1)
                new = insert(before, "Gelu" if node.op_type == "Erf" else "FastGelu", [x], domain=CONTRIB)
            replace(output, new.outputs[0])
            modified = True
        return ir.passes.PassResult(model, modified)


def _times(value: ir.Value | None) -> list[tuple[ir.Value, float]]:
    """(x, s) for each way to read `value` as x * s with a fixed number s."""
    node = None if value is None else value.producer()
    if node is None or not is_op(node, "Mul", "Div"):
        return []
    left, right = node.inputs
    found = [(left, number(right)), (right, number(left))] if node.op_type == "Mul" else [(left, number(right))]
    return [(x, 1 / s if node.op_type == "Div" else s) for x, s in found if x is not None and s is not None and s != 0]


def _near(value: float, wanted: float) -> bool:
    return math.isclose(value, wanted, rel_tol=1e-3)  # half precision writes sqrt 2 as 1.4141


def _of_erf(erf: ir.Node) -> ir.Value | None:
    return next((x for x, s in _times(erf.inputs[0]) if _near(s, math.sqrt(0.5))), None)


def _of_tanh(tanh: ir.Node) -> ir.Value | None:
    """x of tanh(sqrt(2 / pi) * (x + 0.044715 x^3))."""
    for inner, factor in _times(tanh.inputs[0]):
        add = inner.producer() if _near(factor, math.sqrt(2 / math.pi)) else None
        if add is None or not is_op(add, "Add"):
            continue
        for x, cubic in (add.inputs, tuple(reversed(add.inputs))):
            if x is not None and any(_near(s, _CUBIC) and _is_cube(cube, x) for cube, s in _times(cubic)):
                return x
    return None


def _is_cube(value: ir.Value, x: ir.Value) -> bool:
    node = value.producer()
    if node is not None and is_op(node, "Pow"):
        return node.inputs[0] is x and number(node.inputs[1]) == 3
    return sorted(map(id, _factors(value, 3))) == [id(x)] * 3


def _factors(value: ir.Value | None, depth: int) -> list[ir.Value | None]:
    node = None if value is None else value.producer()
    if node is None or not is_op(node, "Mul") or not depth:
        return [value]
    return [factor for operand in node.inputs for factor in _factors(operand, depth - 1)]


def _product(node: ir.Node, x: ir.Value) -> ir.Value | None:
    """Where 1 + `node` has been multiplied with x and 1/2, in any order; None if it is not."""
    add = only_reader(node.outputs[0])
    if add is None or not is_op(add, "Add") or 1 not in map(number, add.inputs):
        return None
    value, scale, seen = add.outputs[0], 1.0, False
    while not (seen and _near(scale, 0.5)):
        reader = only_reader(value)
        if reader is None or not is_op(reader, "Mul", "Div"):
            return None
        other = reader.inputs[1 - reader.inputs.index(value)]
        by = number(other)
        if by is not None and by != 0 and (is_op(reader, "Mul") or reader.inputs[0] is value):
            scale *= 1 / by if is_op(reader, "Div") else by
        elif is_op(reader, "Mul") and not seen and other is x:
            seen = True
        elif is_op(reader, "Mul") and not seen and (by := next((s for y, s in _times(other) if y is x), None)):
            seen, scale = True, scale * by
        else:
            return None
        value = reader.outputs[0]
    return value
