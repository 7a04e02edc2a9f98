"""QuantizeLinear and DequantizeLinear around the chosen nodes, by ONNX Runtime's quantizer, and where it is wrong.

It is given the graph in memory with the types that ONNX Runtime itself inferred: its own shape inference fails on
operators that onnx does not know. What is repaired: it writes over names that are taken (`free_names`), cuts constants
of elementwise nodes to the weights' reduced range, and rounds what float nodes read, scores before Softmax most of all.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from edgeai.errors import QuantizationError
from edgeai.ort import onnxruntime
from edgeai.quantization.integer_nodes import QDQ_OPS, WEIGHTED, captured_path, score_path
from edgeai.quantization.ranges import Range
from edgeai.quantization.weights import IntegerType

# What ONNX Runtime's quantizer looks for before it runs shape inference of its own.
_INFERRED = ("onnx.infer", "onnxruntime.quant")

# What it appends to the names of tensors, without asking whether the name is taken.
_SUFFIXES = ("_scale", "_zero_point", "_quantized", "_QuantizeLinear_Output", "_DequantizeLinear_Output")


@dataclass(frozen=True)
class Types:
    """How integers are chosen: the same for all nodes of a model. `outputs`: of what they compute too."""

    activation: IntegerType
    weight: IntegerType
    per_channel: bool
    symmetric_activations: bool
    reduce_range: bool
    float_biases: bool = False
    outputs: bool = True


def insert_qdq(
    model: ir.Model, nodes: list[ir.Node], ranges: Mapping[str, Range], types: Types, *, exact: Collection[str] = ()
) -> ir.Model:
    """The model with integer forms of `nodes`, which is a new one. `exact`: float nodes that must read float.

    Raises QuantizationError if the quantizer cannot handle the graph.
    """
    onnxruntime()  # before anything imports it with telemetry on
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    integers = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}
    data = {
        name: TensorData(lowest=np.float32(found.low), highest=np.float32(found.high)) for name, found in ranges.items()
    }
    options: dict[str, Any] = {
        "WeightSymmetric": True,
        "ActivationSymmetric": types.symmetric_activations,
        "QuantizeBias": not types.float_biases,
        "OpTypesToExcludeOutputQuantization": [] if types.outputs else sorted(WEIGHTED),
        "TensorQuantOverrides": {name: [{"reduce_range": False}] for name in _elementwise_constants(nodes)},
    }
    proto = _typed_proto(model, ranges)
    passed = _hide_inputs_among_outputs(proto.graph)
    try:
        with _quiet():
            quantizer = QDQQuantizer(
                proto,
                types.per_channel,
                types.reduce_range,
                integers[types.weight],
                integers[types.activation],
                TensorsData(CalibrationMethod.MinMax, data),
                [str(node.name) for node in nodes],
                [],
                sorted(QDQ_OPS),
                options,
            )
            quantizer.quantize_model()
    except Exception as error:  # it asserts and looks up what a strange graph does not have
        raise QuantizationError(
            f"ONNX Runtime's quantizer cannot handle this graph: {type(error).__name__}: {error}"
        ) from error
    result: onnx.ModelProto = quantizer.model.model
    for position, output in passed:
        result.graph.output.insert(position, output)
    quantized: ir.Model = ir.from_proto(result)
    quantized.graph.sort()  # the quantizer's own sort does not see what the bodies of If and Loop read
    quantized.producer_name, quantized.producer_version = model.producer_name, model.producer_version
    quantized.metadata_props.pop(_INFERRED[0], None)
    _unround(quantized, exact)
    return quantized


def free_names(graph: ir.Graph) -> None:
    """Rename what stands where the quantizer will write; inputs and outputs cannot be renamed."""
    values = [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    names = {value.name for value in (*values, *graph.inputs)}
    for value in values:
        stems = [value.name.removesuffix(suffix) for suffix in _SUFFIXES if value.name and value.name.endswith(suffix)]
        if any(stem in names for stem in stems) and not value.is_graph_input() and not value.is_graph_output():
            while value.name in names:
                value.name = f"{value.name}_"
            names.add(value.name)


def _elementwise_constants(nodes: list[ir.Node]) -> set[str]:
    """The reduced range is for weights, whose products are summed; a constant that is added keeps its eight bits."""
    chosen = set(nodes)
    values = {value for node in nodes if node.op_type in ("Add", "Mul") for value in node.inputs if value is not None}
    return {
        str(value.name)
        for value in values
        if value.const_value is not None
        and all(use.node in chosen and use.node.op_type in ("Add", "Mul") for use in value.uses())
    }


def _typed_proto(model: ir.Model, floats: Mapping[str, Range]) -> onnx.ModelProto:
    ir.external_data.load_to_model(model)  # the quantizer looks for data files in the working directory
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]  # exporters leave shapes there that later passes made wrong
    known = {value.name for value in (*proto.graph.input, *proto.graph.output)}
    for name in floats:
        if name not in known:
            proto.graph.value_info.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    proto.metadata_props.add(key=_INFERRED[0], value=_INFERRED[1])
    return proto


def _unround(model: ir.Model, exact: Collection[str]) -> None:
    """Give Softmax, what stands between it and the scores, and the nodes `exact` their inputs before rounding.

    Rounding scores once more costs accuracy, and lets ONNX Runtime fuse QLinearSoftmax, which answers 0 instead of 1
    for rows of one element (seen with 1.31 on x86: any attention over a sequence of length 1).
    """
    names = score_path(model.graph) | captured_path(model.graph) | set(exact)
    for node in model.graph:
        if node.op_type != "Softmax" and node.name not in names:
            continue
        for position, value in enumerate(node.inputs):
            dequantize = value.producer() if value is not None else None
            if dequantize is None or dequantize.op_type != "DequantizeLinear" or dequantize.inputs[0] is None:
                continue
            quantize = dequantize.inputs[0].producer()
            if quantize is not None and quantize.op_type == "QuantizeLinear":
                node.replace_input_with(position, quantize.inputs[0])
    common.RemoveUnusedNodesPass()(model)


def _hide_inputs_among_outputs(graph: onnx.GraphProto) -> list[tuple[int, onnx.ValueInfoProto]]:
    """Take away the outputs that are inputs too, with their positions: the quantizer would compute them once more."""
    inputs = {value.name for value in graph.input}
    found = [(position, value) for position, value in enumerate(graph.output) if value.name in inputs]
    for position, _ in reversed(found):
        del graph.output[position]
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """ONNX Runtime's quantizer logs through the root logger, which would install a handler that writes to stderr."""
    handler = logging.NullHandler()
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)
