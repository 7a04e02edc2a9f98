"""x W + b with constant W and b: the linear layer as exporters write it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from edgeai.graph.constants import constant
from edgeai.graph.heads import is_op
from edgeai.graph.rewriting import only_reader
from edgeai.spec import Array


@dataclass(frozen=True)
class Projection:
    """`weight` is (K, N), `bias` (N,) or None; `output` is the value that holds x W + b."""

    x: ir.Value
    weight: Array
    bias: Array | None
    output: ir.Value
    name: str

    @classmethod
    def ending_in(cls, value: ir.Value) -> Projection | None:
        """The linear layer whose output `value` is, bias included."""
        node = value.producer()
        if node is None or not is_op(node, "Add", "MatMul"):
            return None
        if node.op_type == "MatMul":
            return _product(node)
        for product, bias in (node.inputs, tuple(reversed(node.inputs))):
            producer = None if product is None else product.producer()
            found = None if producer is None or only_reader(producer.outputs[0]) is None else _product(producer)
            offset = constant(bias)
            if found is not None and offset is not None and tuple(offset.shape) == (found.weight.shape[1],):
                return cls(found.x, found.weight, offset.numpy(), value, found.name)
        return None

    @classmethod
    def starting_at(cls, matmul: ir.Node) -> Projection | None:
        """The linear layer whose product `matmul` is, with the bias if one is added to it."""
        reader = only_reader(matmul.outputs[0])
        whole = cls.ending_in(reader.outputs[0]) if reader is not None and is_op(reader, "Add") else None
        return whole or cls.ending_in(matmul.outputs[0])


def _product(node: ir.Node) -> Projection | None:
    weight = constant(node.inputs[1]) if is_op(node, "MatMul") else None
    if weight is None or node.inputs[0] is None or len(weight.shape) != 2 or not weight.dtype.is_floating_point():
        return None
    return Projection(node.inputs[0], weight.numpy(), None, node.outputs[0], str(node.inputs[1].name))  # type: ignore[union-attr]  # it has a tensor
