"""Conv + BatchNormalization -> Conv.

At inference a BatchNormalization is one scale and one shift a channel, and both fit into the Conv before it:
W' = W * gamma / sqrt(var + epsilon), b' = (b - mean) * gamma / sqrt(var + epsilon) + beta.
torch's exporter folds it; files from elsewhere still have it, and a quantizer would round between the two.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeai.graph.constants import add_initializer, constant
from edgeai.spec import Array


class FoldBatchNorm(ir.passes.InPlacePass):
    """Folds where the Conv's output goes to the BatchNormalization alone and all parameters are constant."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            if node.op_type == "BatchNormalization" and node.domain == "":
                modified |= _fold(model.graph, node)
        return ir.passes.PassResult(model, modified)


def _fold(graph: ir.Graph, norm: ir.Node) -> bool:
    conv = _foldable_conv(norm)
    if conv is None:
        return False
    tensors = [constant(value) for value in (conv.inputs[1], *norm.inputs[1:])]
    bias = conv.inputs[2] if len(conv.inputs) > 2 else None
    bias_tensor = constant(bias)
    if any(tensor is None for tensor in tensors) or (bias is not None and bias_tensor is None):
        return False
    dtype = tensors[0].dtype  # type: ignore[union-attr]  # none is None here
    # In float64: the ratio of two rounded numbers would lose the last bits of every weight.
    weight, gamma, beta, mean, variance = (
        tensor.numpy().astype(np.float64) for tensor in tensors if tensor is not None
    )
    epsilon = norm.attributes.get_float("epsilon", 1e-5)
    if not (variance + epsilon > 0).all():
        return False
    scale = gamma / np.sqrt(variance + epsilon)  # (C,)
    shift = beta - mean * scale
    if bias_tensor is not None:
        shift = shift + bias_tensor.numpy().astype(np.float64) * scale
    folded = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))  # (C, C_in / group, *kernel)
    if not (np.isfinite(folded).all() and np.isfinite(shift).all()):
        return False
    name = conv.inputs[1].name  # type: ignore[union-attr]  # its tensor was found
    conv.resize_inputs(3)
    conv.replace_input_with(1, add_initializer(graph, f"{name}_folded", _tensor(folded, dtype)))
    conv.replace_input_with(2, add_initializer(graph, f"{name}_folded_bias", _tensor(shift, dtype)))
    _bypass(graph, norm, conv.outputs[0])
    return True


def _foldable_conv(norm: ir.Node) -> ir.Node | None:
    source = norm.inputs[0]
    conv = source.producer() if source is not None else None
    if source is None or conv is None or conv.op_type != "Conv" or conv.domain != "" or conv.graph is not norm.graph:
        return None
    if len(source.uses()) != 1 or source.is_graph_output():
        return None  # somebody else wants the value before the normalization
    training = norm.attributes.get_int("training_mode", 0) != 0
    statistics = any(output.uses() or output.is_graph_output() for output in norm.outputs[1:])
    return None if training or statistics else conv


def _bypass(graph: ir.Graph, norm: ir.Node, source: ir.Value) -> None:
    output = norm.outputs[0]
    name, is_output = output.name, output.is_graph_output()
    source.shape = output.shape or source.shape
    source.type = output.type or source.type
    ir.convenience.replace_all_uses_with(output, source, replace_graph_outputs=True)
    parameters = norm.inputs[1:]
    graph.remove(norm, safe=True)
    if is_output:
        source.name = name  # callers know the output by this name
    for value in parameters:
        if value is not None and value.is_initializer() and not value.uses() and not value.is_graph_output():
            graph.initializers.pop(str(value.name), None)


def _tensor(array: Array, dtype: ir.DataType) -> ir.TensorProtocol:
    return ir.Tensor(np.ascontiguousarray(array.astype(dtype.numpy())), dtype=dtype)
