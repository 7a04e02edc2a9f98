"""Weights of operators without integer kernels: stored as int8, a scale for each channel, multiplied as floats.

Cast and Mul convert them back. ONNX Runtime folds both while it loads the model, so the file is a quarter as large and
runs as fast as before. DequantizeLinear it would run on every call, and the kernels could neither pack the weight nor
lay it out in blocks: one step of an LSTM then takes more than twice as long (benchmarks/stored_weights.py, with 1.31).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx_ir as ir

from edgeai.errors import QuantizationError
from edgeai.quantization.constants import constant
from edgeai.quantization.coverage import WEIGHTED_OPS
from edgeai.quantization.layers import read_tensor
from edgeai.quantization.recipe import Store
from edgeai.spec import Array

_TOP = 127
_NODES_BYTES = 256  # what the two nodes and their names take: a smaller weight would grow


def storable(model: ir.Model, *, op_types: Collection[str] = WEIGHTED_OPS) -> list[ir.Node]:
    """The nodes, those in bodies included, that multiply with a constant float32 weight in floating point."""
    return [
        node
        for node in ir.traversal.RecursiveGraphIterator(model.graph)
        if node.op_type in op_types and weight_elements(node)
    ]


def weight_elements(node: ir.Node) -> int:
    """How many elements its constant float32 weights have; 0 for a node that multiplies with none."""
    if node.domain != "" or node.op_type not in WEIGHTED_OPS:
        return 0
    return sum(value.const_value.size for _, value in _weights(node) if value.const_value is not None)


def store_weights(nodes: Collection[ir.Node], store: Store) -> Mapping[str, float]:
    """Store the weights of `nodes` as integers; of each, by name, ||weight - rounded|| / ||weight||.

    Left as they are: weights that other nodes read too, and those that would not become smaller.
    Raises QuantizationError if a weight holds NaN or infinity.
    """
    errors: dict[str, float] = {}
    found = {value: _summed(node, position, value) for node in nodes for position, value in _weights(node)}
    for value, summed in found.items():
        if value.is_graph_output() or any(use.node not in nodes for use in value.uses()):
            continue
        assert value.const_value is not None
        scales = math.prod(size for axis, size in enumerate(value.const_value.shape.numpy()) if axis not in summed)
        if 3 * value.const_value.size - 4 * scales > _NODES_BYTES:
            errors[str(value.name)] = _store(value, summed, store)
    return errors


def _weights(node: ir.Node) -> Iterator[tuple[int, ir.Value]]:
    for position in WEIGHTED_OPS[node.op_type]:
        value = node.inputs[position] if position < len(node.inputs) else None
        if value is None or not value.is_initializer() or value.is_graph_input() or value.const_value is None:
            continue
        tensor = value.const_value
        if tensor.dtype is ir.DataType.FLOAT and len(tensor.shape) >= 2 and tensor.size:
            yield position, value


def _summed(node: ir.Node, position: int, weight: ir.Value) -> tuple[int, ...]:
    """The axes of a weight that share a scale: those that the operator sums over, as far as it can be said simply."""
    assert weight.const_value is not None
    rank = len(weight.const_value.shape)
    if node.op_type in ("Conv", "ConvTranspose"):  # (out, in, ...) and (in, out, ...)
        channels = 0 if node.op_type == "Conv" else 1
        return tuple(axis for axis in range(rank) if axis != channels)
    if node.op_type in ("LSTM", "GRU", "RNN"):  # (direction, gate, in)
        return (rank - 1,)
    turned = node.op_type == "Gemm" and node.attributes.get_int(("transA", "transB")[position], 0) != 0
    return (rank - 1 if (position == 0) != turned else rank - 2,)


def _store(value: ir.Value, summed: tuple[int, ...], store: Store) -> float:
    assert value.const_value is not None and value.graph is not None
    graph, name = value.graph, str(value.name)
    assert isinstance(graph, ir.Graph)
    codes, scales, error = _rounded(read_tensor(value.const_value), summed, name)
    integers = constant(graph, f"{name}_int8", codes, store)
    cast = ir.node("Cast", [integers], {"to": ir.DataType.FLOAT}, name=f"{name}_cast")
    product = ir.node("Mul", [cast.outputs[0], constant(graph, f"{name}_scales", scales, store)], name=f"{name}_scale")
    for node, output in ((cast, f"{name}_cast"), (product, f"{name}_float")):
        node.outputs[0].name, node.outputs[0].type = output, ir.TensorType(ir.DataType.FLOAT)
        node.outputs[0].shape = value.shape
    ir.convenience.replace_all_uses_with(value, product.outputs[0])
    del graph.initializers[name]
    graph.insert_before(graph[0], [cast, product])
    return error


def _rounded(weight: Array, summed: tuple[int, ...], name: str) -> tuple[Array, Array, float]:
    """int8 codes, float32 scales that broadcast over `summed`, and the relative error."""
    if not np.isfinite(weight).all():
        raise QuantizationError(f"weight {name} holds NaN or infinity", hint="keep its node in float: exclude=(...)")
    scales = np.maximum(weight.max(summed, keepdims=True), -weight.min(summed, keepdims=True)) / np.float32(_TOP)
    scales = np.where(scales < np.finfo(np.float32).tiny, np.float32(1), scales)
    steps = weight / scales
    codes = np.clip(np.rint(steps, out=steps), -_TOP, _TOP, out=steps).astype(np.int8)
    steps *= scales  # in place: a stack of matrices can be large
    steps -= weight
    norm = float(np.linalg.norm(weight))
    return codes, scales, float(np.linalg.norm(steps)) / norm if norm else 0.0
