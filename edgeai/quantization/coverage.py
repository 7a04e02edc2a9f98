"""What really runs as integers: counted in the graph that ONNX Runtime executes, not in the one that was asked for."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from edgeai.quantization.sessions import open_session

# Operators that multiply with constant weights, and which of their inputs may be those weights.
WEIGHTED_OPS: Mapping[str, tuple[int, ...]] = {
    "MatMul": (0, 1),
    "Gemm": (0, 1),
    "Conv": (1,),
    "ConvTranspose": (1,),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
    "FusedMatMul": (0, 1),
    "FusedGemm": (0, 1),
    "FusedConv": (1,),
    "NhwcFusedConv": (1,),
    "Attention": (1,),  # com.microsoft's; the standard one has no weights
}

# The same on integers, as ONNX Runtime's CPU provider names them after its optimizer has run.
INTEGER_OPS = frozenset({
    "MatMulInteger", "MatMulInteger16", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm",
    "ConvInteger", "QLinearConv", "NhwcConvInteger", "QLinearConvTranspose", "QAttention", "DynamicQuantizeLSTM",
    "MatMulNBits", "QMoE",
})  # fmt: skip

# Where other inputs than the weights are matrices of integers.
_INTEGER_POSITIONS: Mapping[str, tuple[int, ...]] = {"DynamicQuantizeLSTM": (1, 2)}

_QUANTIZED_MARKS = INTEGER_OPS | {
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QEmbedLayerNormalization", "GatherBlockQuantized",
    "MatMulBnb4",
}  # fmt: skip

_INTEGERS = frozenset({ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4})
_HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_FLOATS = _HALVES | {ir.DataType.FLOAT, ir.DataType.DOUBLE}


@dataclass(frozen=True)
class Coverage:
    """`integer_weight_share`: of the weight elements that are multiplied with, the share multiplied as integers.

    Embedding tables that are only looked up multiply with nothing and do not count. `float_names` are the nodes that
    still multiply with constant weights in floating point. `half_weight_share` is the share whose weights are stored
    as float16 or bfloat16, `stored_integer_share` as integers, whatever the kernels make of them.
    """

    integer_nodes: int
    float_nodes: int
    integer_weight_share: float
    float_names: tuple[str, ...]
    half_weight_share: float = 0.0
    stored_integer_share: float = 0.0


def measure_coverage(path: Path) -> Coverage:
    """Let ONNX Runtime optimize the model (portable rewrites only) and count what is left.

    Raises QuantizationError if it does not load.
    """
    with tempfile.TemporaryDirectory(prefix="edgeai-") as directory:
        optimized = Path(directory) / "optimized.onnx"
        open_session(path, level="extended", optimized=optimized)
        return count(ir.load(optimized))


def count(model: ir.Model) -> Coverage:
    """Count integer and float multiplications with constant weights, in subgraphs too."""
    integer_nodes, integer_elements, float_elements, half_elements, stored_elements = 0, 0, 0, 0, 0
    float_names: list[str] = []
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.op_type in INTEGER_OPS:
            integer_nodes += 1
            positions = _INTEGER_POSITIONS.get(node.op_type, range(len(node.inputs)))
            integer_elements += sum(_elements(node.inputs[i], _INTEGERS) for i in positions)
        elif node.op_type in WEIGHTED_OPS:
            # A weight that is stored as integers but converted back before the product is multiplied in float.
            stored = _stored(node)
            if elements := sum(_elements(value, _INTEGERS | _FLOATS) for value in stored):
                float_names.append(node.name or str(node.outputs[0].name))
                float_elements += elements
                half_elements += sum(_elements(value, _HALVES) for value in stored)
                stored_elements += sum(_elements(value, _INTEGERS) for value in stored)
    total = integer_elements + float_elements or 1
    return Coverage(
        integer_nodes, len(float_names), integer_elements / total, tuple(float_names),
        half_elements / total, (integer_elements + stored_elements) / total,
    )  # fmt: skip


def quantized_marks(model: ir.Model) -> list[str]:
    """What `model` has that only a quantized model has, each once: types of operators, weights stored as integers."""
    marks = set()
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.op_type in _QUANTIZED_MARKS:
            marks.add(node.op_type)
        elif node.op_type in WEIGHTED_OPS and any(_elements(value, _INTEGERS) for value in _stored(node)):
            marks.add("integer weights")
    return sorted(marks)


def _stored(node: ir.Node) -> list[ir.Value | None]:
    """The weights of a node as they are stored, where they are converted or transposed before the product."""
    return [_before_conversion(node.inputs[i]) for i in WEIGHTED_OPS[node.op_type] if i < len(node.inputs)]


def _before_conversion(value: ir.Value | None) -> ir.Value | None:
    while value is not None and (node := value.producer()) is not None:
        scales = node.op_type == "Mul" and node.inputs[1] is not None and node.inputs[1].const_value is not None
        if not scales and node.op_type not in ("DequantizeLinear", "Cast", "Transpose"):
            break
        value = node.inputs[0]
    return value


def _elements(value: ir.Value | None, dtypes: frozenset[ir.DataType]) -> int:
    """Elements of a constant matrix or kernel; 0 for anything else, scales and biases included."""
    tensor = None if value is None or value.is_graph_input() else ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.dtype not in dtypes or len(tensor.shape) < 2:
        return 0
    return math.prod(tensor.shape.numpy())
