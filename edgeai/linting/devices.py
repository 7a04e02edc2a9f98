"""Targets that need not be in this machine: their documented rules, applied to the file itself."""

from __future__ import annotations

import onnx_ir as ir

from edgeai.linting.products import Product, dequantize, dtype_of, zero_points
from edgeai.linting.rules import (
    Rule,
    always,
    has_no_weights,
    is_integer_op,
    is_qdq,
    weight_alone_is_quantized,
)

_TENSORRT = "docs.nvidia.com/deeplearning/tensorrt, Working with Quantized Types"
_TENSORRT_11 = "docs.nvidia.com/deeplearning/tensorrt, Migrating from TensorRT 10.x to 11.x"
_CUDA = "onnxruntime.ai/docs/performance/model-optimizations/quantization.html, Quantization on GPU"
_OPENVINO = "docs.openvino.ai, Low Precision Transformations"
_HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_NOT_TENSORRT = frozenset({ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.INT16, ir.DataType.UINT4})


def is_asymmetric(product: Product) -> bool:
    """A zero point that is not 0, or unsigned or 16-bit integers."""
    around = [node for node in (product.activation, product.weight) if node is not None]
    return any(bool(zero_points(node).any()) or dtype_of(node) in _NOT_TENSORRT for node in around)


def has_int32_bias(product: Product) -> bool:
    return any(dtype_of(dequantize(value)) == ir.DataType.INT32 for value in product.node.inputs[2:])


def is_half(product: Product) -> bool:
    return any(tensor.dtype in _HALVES for tensor in product.weight_tensors)


def packs_weights(product: Product) -> bool:
    return product.node.op_type == "MatMulNBits"


_NO_WEIGHTS = Rule("no-weights", has_no_weights, "float", "multiplies two activations", "the file's graph")
_HALF = Rule("half", is_half, "float", "in 16-bit floats, as the graph is written", "the file's graph")

TENSORRT = (
    Rule(
        "integer-operator",
        is_integer_op,
        "refused",
        "TensorRT takes QuantizeLinear and DequantizeLinear, not this operator: it runs on another provider",
        "github.com/onnx/onnx-tensorrt, docs/operators.md",
    ),
    Rule(
        "zero-point",
        is_asymmetric,
        "refused",
        "its zero point is not 0, or its integers are unsigned or wide: TensorRT takes int8 with zero points of 0",
        _TENSORRT,
    ),
    Rule(
        "int32-bias",
        has_int32_bias,
        "refused",
        "its bias comes from an int32 DequantizeLinear, which TensorRT does not take: keep biases in float",
        _TENSORRT,
    ),
    Rule("qdq", is_qdq, "integer", "symmetric pairs around both operands", _TENSORRT),
    Rule("weight-only", weight_alone_is_quantized, "float", "only its weight is quantized", _TENSORRT),
    _NO_WEIGHTS,
    _HALF,
    Rule(
        "strong-typing",
        always,
        "float",
        "in float32, as the graph is written: since TensorRT 11 no flag lowers it, the graph itself must be float16",
        _TENSORRT_11,
    ),
)

CUDA = (
    Rule(
        "packed-weights",
        packs_weights,
        "float",
        "integers are unpacked and multiplied in float: less memory to read, no integer products",
        "docs/ContribOperators.md, com.microsoft.MatMulNBits",
    ),
    Rule(
        "integer-operator",
        is_integer_op,
        "refused",
        "the CUDA provider has no kernel that fits: it runs on the CPU with a copy each way; use float16 or bfloat16",
        _CUDA,
    ),
    Rule(
        "qdq",
        is_qdq,
        "refused",
        "the CUDA provider has no int8 product for QDQ: both sides are dequantized first; use float16 or bfloat16",
        _CUDA,
    ),
    Rule("weight-only", weight_alone_is_quantized, "float", "only its weight is quantized", _CUDA),
    _NO_WEIGHTS,
    _HALF,
    Rule("full-float", always, "float", "in float32: float16 or bfloat16 is faster on tensor cores", _CUDA),
)

OPENVINO = (
    Rule(
        "packed-weights",
        packs_weights,
        "float",
        "compressed weights are unpacked on the way: less memory to read, no integer products",
        _OPENVINO,
    ),
    Rule(
        "integer-operator",
        is_integer_op,
        "refused",
        "integer kernels are chosen from QDQ pairs, not from this operator: use a static recipe",
        _OPENVINO,
    ),
    Rule("qdq", is_qdq, "integer", "pairs around both operands, with or without zero points", _OPENVINO),
    Rule("weight-only", weight_alone_is_quantized, "float", "only its weight is quantized", _OPENVINO),
    _NO_WEIGHTS,
    _HALF,
    Rule("full-float", always, "float", "not quantized; runs in bfloat16 where the CPU has it", _OPENVINO),
)
