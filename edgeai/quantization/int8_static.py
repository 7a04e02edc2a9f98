"""Integer weights and integer activations with fixed ranges (QDQ), from calibration samples.

The ranges come from our own streaming observer, the QuantizeLinear/DequantizeLinear pairs from ONNX Runtime's
quantizer, which is given the graph in memory with the types that ONNX Runtime itself inferred: its own shape
inference fails on operators that onnx does not know.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from edgeai.errors import QuantizationError, UsageError
from edgeai.ort import onnxruntime
from edgeai.quantization.observers import Range, observe
from edgeai.quantization.preparation import refuse_weightless, weighted_nodes
from edgeai.quantization.recipe import Applied, Setting, resolved_reduce_range, without
from edgeai.quantization.weights import IntegerType

# Integer kernels, and what passes integers through between them: an island of floats between two integer
# operators costs two conversions. Normalizations, Softmax and Where have no integer kernel worth its error.
QDQ_OPS = frozenset({
    "Conv", "Gemm", "MatMul", "Add", "Mul", "Relu", "Clip", "LeakyRelu", "Sigmoid", "MaxPool",
    "AveragePool", "GlobalAveragePool", "Concat", "Split", "Pad", "Resize", "Reshape", "Transpose", "Squeeze",
    "Unsqueeze", "Flatten", "Slice",
})  # fmt: skip

# Between scores and Softmax stand masks of -10000 or -inf: rounded to one scale with them, every score is 0.
_SCORE_OPS = frozenset({"Add", "Sub", "Mul", "Div", "Where", "Reshape", "Cast", "Min", "Max", "Clip"})


@dataclass(frozen=True)
class Int8Static:
    """Activation and weight types; uint8 x int8 is the fast pair on x86.

    `symmetric_activations` puts zero in the middle of the range. `reduce_range=None` decides by the target's CPU.
    `exclude` names nodes that stay float. Raises UsageError for a pair of types that has no kernels.
    """

    name: ClassVar[str] = "int8-static"
    minimum_opset: ClassVar[int] = 13  # DequantizeLinear by channel
    needs_samples: ClassVar[bool] = True

    activation_type: IntegerType = "uint8"
    weight_type: IntegerType = "int8"
    per_channel: bool = True
    symmetric_activations: bool = False
    observer: Literal["minmax"] = "minmax"
    reduce_range: bool | None = None
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.activation_type, self.weight_type) == ("int8", "uint8"):
            raise UsageError(
                "int8 activations with uint8 weights have no kernels", hint="make the weights int8 as well"
            )
        if self.observer != "minmax":
            raise UsageError(f"observer {self.observer!r} is unknown", hint="minmax")

    def apply(self, model: ir.Model, setting: Setting) -> Applied:
        assert setting.samples is not None  # the verb saw to it
        candidates = weighted_nodes(model)
        refuse_weightless(model, candidates, setting.source, "MatMul, Gemm or Conv")
        weighted = without(candidates, self.exclude, model)
        _refuse_nonfinite(weighted)
        _free_names(model.graph)
        kept = _score_path(model.graph) | set(self.exclude)
        nodes = [node for node in _possible(model.graph, set(weighted)) if node.name not in kept]
        ranges = observe(model, _tensors(nodes), setting.signature, setting.samples, progress=setting.progress)
        nodes = [node for node in nodes if _is_float(node, ranges)]
        _refuse_infinite(nodes, ranges)
        reduce_range = resolved_reduce_range(self.reduce_range, self.weight_type, setting.target)
        quantized = self._quantize(model, [str(node.name) for node in nodes], ranges, reduce_range)
        choices = {"reduce_range": reduce_range, "samples": len(setting.samples), "kept_float": sorted(kept)}
        return Applied(quantized, choices)

    def _quantize(self, model: ir.Model, nodes: list[str], ranges: dict[str, Range], reduce_range: bool) -> ir.Model:
        onnxruntime()  # before anything imports it with telemetry on
        from onnxruntime.quantization import CalibrationMethod, QuantType
        from onnxruntime.quantization.calibrate import TensorData, TensorsData
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        types = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}
        data = {
            name: TensorData(lowest=np.float32(found.low), highest=np.float32(found.high))
            for name, found in ranges.items()
        }
        options: dict[str, Any] = {"WeightSymmetric": True, "ActivationSymmetric": self.symmetric_activations}
        try:
            with _quiet():
                quantizer = QDQQuantizer(
                    _typed_proto(model, ranges),
                    self.per_channel,
                    reduce_range,
                    types[self.weight_type],
                    types[self.activation_type],
                    TensorsData(CalibrationMethod.MinMax, data),
                    nodes,
                    [],
                    sorted(QDQ_OPS),
                    options,
                )
                quantizer.quantize_model()
                quantizer.model.topological_sort()
        except Exception as error:  # it asserts and looks up what a strange graph does not have
            raise QuantizationError(
                f"ONNX Runtime's quantizer cannot handle this graph: {type(error).__name__}: {error}"
            ) from error
        result: onnx.ModelProto = quantizer.model.model
        quantized: ir.Model = ir.from_proto(result)
        quantized.producer_name, quantized.producer_version = model.producer_name, model.producer_version
        quantized.metadata_props.pop(_INFERRED[0], None)
        _unround_scores(quantized)
        return quantized


# What ONNX Runtime's quantizer looks for before it runs shape inference of its own.
_INFERRED = ("onnx.infer", "onnxruntime.quant")

# What it appends to the names of tensors, without asking whether the name is taken.
_SUFFIXES = ("_scale", "_zero_point", "_quantized", "_QuantizeLinear_Output", "_DequantizeLinear_Output")


def _free_names(graph: ir.Graph) -> None:
    """Rename what stands where the quantizer will write; inputs and outputs cannot be renamed."""
    values = [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    names = {value.name for value in (*values, *graph.inputs)}
    for value in values:
        stems = [value.name.removesuffix(suffix) for suffix in _SUFFIXES if value.name and value.name.endswith(suffix)]
        if any(stem in names for stem in stems) and not value.is_graph_input() and not value.is_graph_output():
            while value.name in names:
                value.name = f"{value.name}_"
            names.add(value.name)


def _possible(graph: ir.Graph, weighted: set[ir.Node]) -> list[ir.Node]:
    """The nodes with integer forms. A product with a constant is one only if its weight can be quantized."""
    found = []
    for node in graph:
        if node.op_type not in QDQ_OPS or node.domain:
            continue
        constant = any(value is not None and value.const_value is not None for value in node.inputs[:2])
        if node.op_type in ("MatMul", "Gemm", "Conv") and constant and node not in weighted:
            continue
        # The quantizer gives the input of Relu and Clip the range of their output, even where a caller reads it.
        first = node.inputs[0]
        if node.op_type in ("Relu", "Clip") and first is not None and first.is_graph_output():
            continue
        found.append(node)
    return found


def _refuse_nonfinite(weighted: list[ir.Node]) -> None:
    for node in weighted:
        value = node.inputs[1]
        if value is not None and value.const_value is not None and not np.isfinite(value.const_value.numpy()).all():
            raise QuantizationError(
                f"weight {value.name} holds NaN or infinity",
                hint=f"keep its node in float: exclude=({node.name!r},)",
            )


def _refuse_infinite(nodes: list[ir.Node], ranges: dict[str, Range]) -> None:
    for name in _tensors(nodes):
        if name in ranges and not ranges[name].is_finite:
            raise QuantizationError(
                f"calibration: tensor {name} reaches infinity, so no scale fits it",
                hint="keep its nodes in float: exclude=(...)",
            )


def _typed_proto(model: ir.Model, ranges: Iterable[str]) -> onnx.ModelProto:
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]  # exporters leave shapes there that later passes made wrong
    known = {value.name for value in (*proto.graph.input, *proto.graph.output)}
    for name in ranges:
        if name not in known:
            proto.graph.value_info.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    proto.metadata_props.add(key=_INFERRED[0], value=_INFERRED[1])
    return proto


def _tensors(nodes: Iterable[ir.Node]) -> list[str]:
    """Names of what the nodes read and write, constants left out, each once."""
    values = (value for node in nodes for value in (*node.inputs, *node.outputs))
    names = (str(value.name) for value in values if value is not None and value.const_value is None)
    return list(dict.fromkeys(names))


def _is_float(node: ir.Node, ranges: dict[str, Range]) -> bool:
    """Does the node compute float32 from float32? Shape arithmetic and other dtypes stay as they are."""
    first = node.inputs[0]
    computes = first is not None and (first.name in ranges or first.const_value is not None)
    return computes and all(value.name in ranges for value in node.outputs)


def _score_path(graph: ir.Graph) -> set[str]:
    """Names of the nodes between each Softmax and the nearest operator that is not elementwise above it."""
    found: set[str] = set()
    pending = [node.inputs[0] for node in graph if node.op_type == "Softmax"]
    while pending:
        value = pending.pop()
        node = value.producer() if value is not None else None
        if node is not None and node.op_type in _SCORE_OPS and node.name not in found:
            found.add(str(node.name))
            pending += node.inputs
    return found


def _unround_scores(model: ir.Model) -> None:
    """Give Softmax, and what stands between it and the scores, the scores as the integer MatMul computed them.

    Rounding them once more costs accuracy, and lets ONNX Runtime fuse QLinearSoftmax, which answers 0 instead of 1
    for rows of one element (seen with 1.31 on x86: any attention over a sequence of length 1).
    """
    path = _score_path(model.graph)
    for node in model.graph:
        if node.op_type != "Softmax" and node.name not in path:
            continue
        for position, value in enumerate(node.inputs):
            dequantize = value.producer() if value is not None else None
            if dequantize is None or dequantize.op_type != "DequantizeLinear" or dequantize.inputs[0] is None:
                continue
            quantize = dequantize.inputs[0].producer()
            if quantize is not None and quantize.op_type == "QuantizeLinear":
                node.replace_input_with(position, quantize.inputs[0])
    common.RemoveUnusedNodesPass()(model)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """ONNX Runtime's quantizer logs through the root logger, which would install a handler that writes to stderr."""
    handler = logging.NullHandler()
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)
