"""(x - mean) / sqrt(variance + epsilon) * scale + shift, spelled out -> LayerNormalization.

Ba et al., 2016, arXiv:1607.06450. Without the mean it is RMSNormalization (Zhang & Sennrich, 2019,
arXiv:1910.07467), an operator since opset 23.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from edgeai.graph.constants import constant
from edgeai.graph.heads import is_op
from edgeai.graph.rewriting import insert, only_reader, replace
from edgeai.graph.shapes import number, numbers, sizes

_SINCE = {"LayerNormalization": 17, "RMSNormalization": 23}


class FuseLayerNorm(ir.passes.InPlacePass):
    """Over the last axis, with a constant scale, where nobody reads what lies between."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        opset, modified = model.opset_imports.get("", 0), False
        if opset < min(_SINCE.values()):
            return ir.passes.PassResult(model, modified=False)
        common.ShapeInferencePass(data_prop=True)(model)
        for node in list(model.graph):
            if node.graph is not None and is_op(node, "Sqrt"):
                modified |= _fuse(node, opset)
        return ir.passes.PassResult(model, modified)


def _fuse(root: ir.Node, opset: int) -> bool:
    """`root` is sqrt(mean(y * y) + epsilon)."""
    y, epsilon = _mean_square(root)
    normal = None if y is None else _divided(root, y)
    scaled = None if normal is None else _with_constant(normal, "Mul")
    if y is None or epsilon is None or scaled is None:
        return False
    x = _centred(y)
    op_type = "RMSNormalization" if x is None else "LayerNormalization"
    if opset < _SINCE[op_type]:
        return False
    output, scale = scaled
    inputs: list[ir.Value | None] = [y if x is None else x, scale]
    if x is not None and (shifted := _with_constant(output, "Add")) is not None:
        output, shift = shifted
        inputs.append(shift)
    shape = sizes(inputs[0])
    if shape is None or any(sizes(value) != shape[-1:] for value in inputs[1:]):
        return False
    before = output.producer()
    assert before is not None
    new = insert(before, op_type, inputs, {"axis": -1, "epsilon": epsilon})
    replace(output, new.outputs[0])
    return True


def _mean_square(root: ir.Node) -> tuple[ir.Value | None, float | None]:
    add = None if root.inputs[0] is None else root.inputs[0].producer()
    if add is None or not is_op(add, "Add"):
        return None, None
    for mean, offset in (add.inputs, tuple(reversed(add.inputs))):
        epsilon, node = number(offset), None if mean is None else mean.producer()
        if epsilon is None or node is None or not _is_mean(node) or node.inputs[0] is None:
            continue
        square = node.inputs[0].producer()
        if square is not None and is_op(square, "Pow") and number(square.inputs[1]) == 2:
            return square.inputs[0], epsilon
        if square is not None and is_op(square, "Mul") and square.inputs[0] is square.inputs[1]:
            return square.inputs[0], epsilon
    return None, None


def _is_mean(node: ir.Node) -> bool:
    """Over the last axis, which it keeps."""
    if not is_op(node, "ReduceMean") or node.attributes.get_int("keepdims", 1) != 1:
        return False
    shape = sizes(node.inputs[0])
    axes = numbers(node.inputs[1]) if len(node.inputs) > 1 else node.attributes.get_ints("axes", None)
    return shape is not None and axes is not None and tuple(axes) in ((-1,), (len(shape) - 1,))


def _divided(root: ir.Node, y: ir.Value) -> ir.Value | None:
    """y / sqrt(...), or y times its reciprocal."""
    reader, by = only_reader(root.outputs[0]), root.outputs[0]
    if reader is not None and (is_op(reader, "Reciprocal") or (is_op(reader, "Div") and number(reader.inputs[0]) == 1)):
        by = reader.outputs[0]
        reader = only_reader(by)
        multiplies = reader is not None and is_op(reader, "Mul") and y in reader.inputs
        return reader.outputs[0] if multiplies and reader is not None else None
    divides = reader is not None and is_op(reader, "Div") and reader.inputs[0] is y and reader.inputs[1] is by
    return reader.outputs[0] if divides and reader is not None else None


def _with_constant(value: ir.Value, op_type: str) -> tuple[ir.Value, ir.Value] | None:
    """The output of the only reader, which multiplies with or adds a constant, and that constant."""
    reader = only_reader(value)
    if reader is None or not is_op(reader, op_type):
        return None
    other = reader.inputs[1 - reader.inputs.index(value)]
    return (reader.outputs[0], other) if other is not None and constant(other) is not None else None


def _centred(y: ir.Value) -> ir.Value | None:
    """x of y = x - mean(x)."""
    node = y.producer()
    if node is None or not is_op(node, "Sub") or node.inputs[1] is None:
        return None
    mean = node.inputs[1].producer()
    same = mean is not None and _is_mean(mean) and mean.inputs[0] is node.inputs[0]
    return node.inputs[0] if same else None
