"""LSTM -> DynamicQuantizeLSTM: integer weights, activations and hidden states quantized step by step.

ONNX Runtime has no such operator for GRU and RNN.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeai.quantization.constants import constant
from edgeai.quantization.weights import IntegerType, quantize_weight
from edgeai.spec import Array

_WEIGHTS = (1, 2)  # W (direction, 4 * hidden, in) and R (direction, 4 * hidden, hidden)
_INPUTS = 8  # what LSTM has; the scales come after


def quantizable_lstms(model: ir.Model) -> list[ir.Node]:
    """The LSTM nodes, those in bodies included, with constant float32 weights and time on the first axis."""
    return [
        node
        for node in ir.traversal.RecursiveGraphIterator(model.graph)
        if (node.op_type, node.domain) == ("LSTM", "")
        and node.attributes.get_int("layout", 0) == 0
        and all(_is_constant(node.inputs[position]) for position in _WEIGHTS)
    ]


def quantize_lstm(node: ir.Node, constants: ir.Graph, *, dtype: IntegerType, reduce_range: bool) -> None:
    """Replace `node`; a scale for each row of each gate. The new weights go to `constants`.

    Raises QuantizationError if a weight holds NaN or infinity.
    """
    inputs = [*node.inputs, *[None] * (_INPUTS - len(node.inputs))]
    for position in _WEIGHTS:
        value = node.inputs[position]
        assert value is not None and value.const_value is not None
        weight = value.const_value.numpy()
        directions = [
            quantize_weight(part.T, dtype="int8", per_channel=True, reduce_range=reduce_range, name=str(value.name))
            for part in weight
        ]
        values = np.stack([part.values for part in directions])  # (direction, in, 4 * hidden)
        scales = np.stack([part.scale for part in directions])
        # The kernel takes unsigned weights too, but only with one zero point for all channels.
        middle = 0 if dtype == "int8" else 128
        parts: dict[str, Array] = {
            "quantized": (values.astype(np.int16) + middle).astype(dtype),
            "scale": scales,
            "zero_point": np.full(scales.shape, middle, dtype),
        }
        made = [constant(constants, f"{value.name}_{part}", array) for part, array in parts.items()]
        inputs[position] = made[0]
        inputs += made[1:]
    attributes = [attribute for name, attribute in node.attributes.items() if name != "layout"]
    new = ir.Node(
        "com.microsoft", "DynamicQuantizeLSTM", inputs, attributes, num_outputs=len(node.outputs), name=node.name
    )
    constants.opset_imports["com.microsoft"] = 1
    assert isinstance(node.graph, ir.Graph)
    ir.convenience.replace_nodes_and_values(node.graph, node, [node], [new], node.outputs, new.outputs)


def _is_constant(value: ir.Value | None) -> bool:
    if value is None or not value.is_initializer() or value.is_graph_input() or value.const_value is None:
        return False
    return value.const_value.dtype is ir.DataType.FLOAT and value.const_value.size > 0
