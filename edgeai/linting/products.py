"""One product of a graph as the rules see it: its operands, where they come from, and the file's own version of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx_ir as ir

from edgeai.machine import Machine
from edgeai.quantization.coverage import INTEGER_OPS, WEIGHTED_OPS, quantized_marks
from edgeai.spec import Array

# Attention multiplies, but holds no weights of its own.
_WEIGHTLESS_OPS = frozenset({"MultiHeadAttention", "GroupQueryAttention", "Attention"})
_INTEGERS = frozenset({ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4})
_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})


@dataclass(frozen=True)
class Facts:
    """What holds for the whole model. `written` are the file's own nodes, by their names and those of their outputs.

    `sums_fit` is what the file's lineage says against sums that a CPU without integer dot products would clamp.
    """

    machine: Machine
    written: Mapping[str, ir.Node] = field(default_factory=dict)
    quantized: bool = False
    sums_fit: str = ""

    @classmethod
    def of(cls, model: ir.Model, machine: Machine, *, sums_fit: str = "") -> Facts:
        written = dict[str, ir.Node]()
        for node in ir.traversal.RecursiveGraphIterator(model.graph):
            written |= {str(name): node for name in (*(value.name for value in node.outputs), node.name) if name}
        return cls(machine, written, bool(quantized_marks(model)), sums_fit)


@dataclass(frozen=True)
class Product:
    """A node that multiplies. `weights` is the number of elements of its constant operands."""

    node: ir.Node
    facts: Facts

    @property
    def name(self) -> str:
        return str(self.node.name or self.node.outputs[0].name)

    @property
    def is_integer_op(self) -> bool:
        return self.node.op_type in INTEGER_OPS

    @cached_property
    def weights(self) -> int:
        return sum(math.prod(tensor.shape.numpy()) for tensor in self.weight_tensors)

    @cached_property
    def weight_tensors(self) -> tuple[ir.TensorProtocol, ...]:
        """Constant matrices and kernels, seen through a DequantizeLinear or a Cast; scales and biases are left out."""
        if self.is_integer_op:
            return tuple(tensor for value in self.node.inputs if (tensor := _matrix(value, _INTEGERS)) is not None)
        positions = WEIGHTED_OPS.get(self.node.op_type, ())
        values = [self.node.inputs[i] for i in positions if i < len(self.node.inputs)]
        kept = _INTEGERS | _FLOATS
        return tuple(tensor for value in values if (tensor := _matrix(_behind(value), kept)) is not None)

    @cached_property
    def weight_position(self) -> int | None:
        """Which input is the constant one."""
        for i in WEIGHTED_OPS.get(self.node.op_type, ()):
            if i < len(self.node.inputs) and _matrix(_behind(self.node.inputs[i]), _INTEGERS | _FLOATS) is not None:
                return i
        return None

    @cached_property
    def activation(self) -> ir.Node | None:
        """The DequantizeLinear in front of the operand that is no weight."""
        if self.weight_position is None:
            return None
        return dequantize(self.node.inputs[1 - self.weight_position if self.weight_position < 2 else 0])

    @cached_property
    def weight(self) -> ir.Node | None:
        """The DequantizeLinear in front of the weight."""
        return None if self.weight_position is None else dequantize(self.node.inputs[self.weight_position])

    @property
    def is_qdq(self) -> bool:
        return self.activation is not None and self.weight is not None

    @property
    def output_is_quantized(self) -> bool:
        return any(user.op_type == "QuantizeLinear" for user, _ in self.node.outputs[0].uses())

    @property
    def written(self) -> ir.Node:
        """The same node in the file; the node itself where the optimizer has renamed it."""
        return self.facts.written.get(self.name, self.node)


def products(model: ir.Model, facts: Facts) -> list[Product]:
    """Everything that multiplies matrices or convolves, in subgraphs too."""
    known = INTEGER_OPS | WEIGHTED_OPS.keys() | _WEIGHTLESS_OPS
    return [Product(node, facts) for node in ir.traversal.RecursiveGraphIterator(model.graph) if node.op_type in known]


def dequantize(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear that makes `value`."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def dtype_of(node: ir.Node | None) -> ir.DataType | None:
    """What a DequantizeLinear reads: the dtype of its constant, or else of its zero point."""
    if node is None:
        return None
    for value in (node.inputs[0], *node.inputs[2:3]):
        tensor = None if value is None else ir.convenience.get_const_tensor(value)
        if tensor is not None:
            return tensor.dtype
    return node.inputs[0].dtype if node.inputs[0] is not None and node.inputs[0].dtype else ir.DataType.UINT8


def zero_points(node: ir.Node | None) -> Array:
    """The zero points of a DequantizeLinear; empty where it has none."""
    value = node.inputs[2] if node is not None and len(node.inputs) > 2 else None
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return np.zeros(0, np.int64) if tensor is None else np.asarray(tensor.numpy(), np.int64).ravel()


def _behind(value: ir.Value | None) -> ir.Value | None:
    node = None if value is None else value.producer()
    return node.inputs[0] if node is not None and node.op_type in ("DequantizeLinear", "Cast") else value


def _matrix(value: ir.Value | None, dtypes: frozenset[ir.DataType]) -> ir.TensorProtocol | None:
    tensor = None if value is None or value.is_graph_input() else ir.convenience.get_const_tensor(value)
    return tensor if tensor is not None and tensor.dtype in dtypes and len(tensor.shape) > 1 else None
