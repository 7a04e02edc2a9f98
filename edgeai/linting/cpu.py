"""ONNX Runtime's CPU provider. The graph is what it has optimized: a float operator that is left there stays one."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeai.linting.products import Product, dtype_of
from edgeai.linting.rules import (
    Rule,
    Warn,
    always,
    has_no_weights,
    is_integer_op,
    is_qdq,
    multiplies_in_float,
    weight_alone_is_quantized,
)

_QUANTIZATION = "onnxruntime.ai/docs/performance/model-optimizations/quantization.html"
_HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_SIXTEEN_BITS = frozenset({ir.DataType.INT16, ir.DataType.UINT16})
_SAFE = 64  # two products of 255 and 64 fit into 16 bits; of 255 and 127 they do not
NO_DOT_PRODUCT = "this x86 CPU has neither VNNI nor AMX"


def is_half(product: Product) -> bool:
    """Is it written in 16-bit floats? The optimizer has put Casts around it."""
    if any(value is not None and value.dtype in _HALVES for value in product.written.inputs):
        return True
    users = [user for user, _ in product.node.outputs[0].uses()]
    return any(user.op_type == "Cast" and user.attributes.get_int("to", 0) in _HALVES for user in users)


def is_behind_transpose(product: Product) -> bool:
    for value in product.written.inputs[:2]:
        node = None if value is None else value.producer()
        if node is not None and node.op_type == "Transpose" and node.inputs[0] is not None:
            return ir.convenience.get_const_tensor(node.inputs[0]) is not None
    return False


def has_signed_activation_on_x86(product: Product) -> bool:
    x86 = product.facts.machine.architecture in ("x86_64", "AMD64")
    return x86 and product.is_qdq and dtype_of(product.activation) == ir.DataType.INT8


def has_16_bits(product: Product) -> bool:
    return product.is_qdq and bool(_SIXTEEN_BITS & {dtype_of(product.activation), dtype_of(product.weight)})


def has_float_output(product: Product) -> bool:
    return product.is_qdq and not product.output_is_quantized


def model_is_quantized(product: Product) -> bool:
    return product.facts.quantized


def may_saturate(product: Product) -> bool:
    """uint8 times int8 with weights beyond 7 bits, on a CPU that sums pairs of such products in 16 bits.

    Where the lineage says that the sums fit, that is believed: it knows the activations.
    """
    facts = product.facts
    if not product.is_integer_op or product.node.op_type == "MatMulNBits" or facts.machine.has_int8_dot_product:
        return False
    if facts.sums_fit:
        return False
    signed = [tensor.numpy() for tensor in product.weight_tensors if tensor.dtype == ir.DataType.INT8]
    return any(bool(np.abs(array.astype(np.int16)).max(initial=0) > _SAFE) for array in signed)


def convolves_dynamically(product: Product) -> bool:
    return product.node.op_type == "ConvInteger"


RULES = (
    Rule(
        "float-products",
        multiplies_in_float,
        "float",
        "integers are unpacked to float: accuracy_level is not 4",
        "docs/ContribOperators.md, com.microsoft.MatMulNBits",
    ),
    Rule("integer", is_integer_op, "integer", "multiplied as integers", "the optimized graph"),
    Rule(
        "no-weights",
        has_no_weights,
        "float",
        "multiplies two activations: no weight to quantize",
        "the optimized graph",
    ),
    Rule(
        "half-on-cpu",
        is_half,
        "float",
        "float16 is cast to float32 and back: the CPU provider multiplies in float32",
        "onnxruntime.ai/docs/performance/model-optimizations/float16.html",
    ),
    Rule(
        "16-bit-qdq",
        has_16_bits,
        "float",
        "quantized to 16 bits, for which the CPU provider has no kernel",
        _QUANTIZATION,
    ),
    Rule(
        "signed-activation",
        has_signed_activation_on_x86,
        "float",
        "its activation is int8: on x86 the integer kernels take uint8 activations (U8S8)",
        _QUANTIZATION,
    ),
    Rule(
        "float-output",
        has_float_output,
        "float",
        "its output is not quantized, and the pairs around it are fused into an integer operator only then",
        "onnxruntime/core/optimizer/qdq_transformer/selectors_actions",
    ),
    Rule(
        "not-fused",
        is_qdq,
        "float",
        "quantized on all sides, but not fused: no integer kernel takes these types or this shape",
        "the optimized graph",
    ),
    Rule(
        "weight-only",
        weight_alone_is_quantized,
        "float",
        "only its weight is quantized: it is dequantized and multiplied in float",
        _QUANTIZATION,
    ),
    Rule(
        "behind-transpose",
        is_behind_transpose,
        "float",
        "its weight stands behind a Transpose, where quantizers do not see it (edgeai optimize folds it)",
        "edgeai.graph.FoldTransposedWeight",
    ),
    Rule("left-out", model_is_quantized, "float", "the recipe left this weight in float", "the optimized graph"),
    Rule("not-quantized", always, "float", "the model is not quantized", "the optimized graph"),
)

WARNINGS = (
    Warn(
        "saturation",
        may_saturate,
        f"uint8 x int8 products are summed in pairs in 16 bits and clamped ({NO_DOT_PRODUCT}): quantize with "
        "reduce_range, or load with session.x64quantprecision=1",
        _QUANTIZATION,
    ),
    Warn(
        "slow-convolution",
        convolves_dynamically,
        "ConvInteger is slower than Conv in float (ten times, where it was measured): use a static recipe",
        "measured, ONNX Runtime 1.31",
    ),
)
