"""Take the mean error that rounded weights cause out of the biases.

M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, arXiv:1906.04721,
section 4.2. A product is linear, so the mean error of its output is (rounded weight - weight) times the mean input,
and calibration knows the mean of every input channel. Each node is looked at with the float model's inputs, so errors
from above are not corrected twice.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from edgeai.quantization.calibration import Calibration
from edgeai.quantization.constants import constant
from edgeai.quantization.integer_nodes import WEIGHTED
from edgeai.spec import Array


def correct_biases(model: ir.Model, nodes: Iterable[ir.Node], quantized: ir.Model, calibration: Calibration) -> int:
    """Change the biases of `model`'s MatMul, Gemm and Conv `nodes` by the rounding found in `quantized`.

    How many were changed. A Gemm or Conv without a bias gets one; a MatMul is followed by an Add of a constant, or
    is left as it is.
    """
    twins = {node.name: node for node in quantized.graph}
    changed = 0
    for node in nodes:
        twin, source = twins.get(node.name), node.inputs[0]
        seen = calibration.tensors.get(str(source.name)) if source is not None else None
        if node.op_type not in WEIGHTED or twin is None or seen is None or seen.channels is None:
            continue
        weight, rounded = _constant_array(node.inputs[1]), _dequantized(twin.inputs[1])
        if weight is not None and rounded is not None:
            shift = _mean_error(node, rounded - weight, seen.channels.mean)
            changed += _add_to_bias(model.graph, node, -shift.astype(np.float32))
    return changed


def _mean_error(node: ir.Node, error: Array, mean: Array) -> Array:
    """(N,), float64. `error` is shaped like the weight, `mean` (K,) is the mean of each input channel."""
    if node.op_type == "Conv":  # borders, where padding stands for some inputs, are taken as if they were inside
        groups = node.attributes.get_int("group", 1)
        kernel = error.reshape(groups, error.shape[0] // groups, error.shape[1], -1).sum(axis=-1)  # (G, O/G, C/G)
        sums: Array = np.einsum("goc,gc->go", kernel, mean.reshape(groups, -1))
        return sums.reshape(-1)
    matrix = error.T if node.attributes.get_int("transB", 0) else error
    answer: Array = mean @ matrix
    return answer


def _add_to_bias(graph: ir.Graph, node: ir.Node, shift: Array) -> bool:
    if node.op_type in ("Gemm", "Conv"):
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        old = np.zeros(shift.shape, np.float32) if bias is None else _constant_array(bias)
        if old is None:
            return False
        node.resize_inputs(3)
        node.replace_input_with(2, constant(graph, f"{node.name}_corrected_bias", old + shift))
        return True
    uses = tuple(node.outputs[0].uses())
    if len(uses) != 1 or node.outputs[0].is_graph_output():
        return False
    add, position = uses[0].node, 1 - uses[0].idx
    if add.op_type != "Add" or add.domain:
        return False
    old = _constant_array(add.inputs[position])
    if old is None or old.ndim > 1:
        return False
    add.replace_input_with(position, constant(graph, f"{node.name}_corrected_bias", old + shift))
    return True


def _constant_array(value: ir.Value | None) -> Array | None:
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def _dequantized(value: ir.Value | None) -> Array | None:
    """The float64 values of a weight that DequantizeLinear makes."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "DequantizeLinear":
        return None
    parts = [_constant_array(part) for part in node.inputs]
    if any(part is None for part in parts[:2]):
        return None
    integers, scale = np.asarray(parts[0], np.float64), np.asarray(parts[1], np.float64)
    zero_point = np.asarray(parts[2] if len(parts) > 2 and parts[2] is not None else 0, np.float64)
    if scale.ndim:
        shape = [1] * integers.ndim
        shape[node.attributes.get_int("axis", 1)] = -1
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape) if zero_point.ndim else zero_point
    dequantized: Array = (integers - zero_point) * scale
    return dequantized
