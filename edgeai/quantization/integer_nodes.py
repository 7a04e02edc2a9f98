"""Which nodes a static recipe gives integer forms, and which tensors it has to know the ranges of."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx_ir as ir

# Integer kernels, and what passes integers through between them: an island of floats between two integer
# operators costs two conversions. Normalizations, Softmax and Where have no integer kernel worth its error.
QDQ_OPS = frozenset({
    "Conv", "Gemm", "MatMul", "Add", "Mul", "Relu", "Clip", "LeakyRelu", "Sigmoid", "MaxPool",
    "AveragePool", "GlobalAveragePool", "Concat", "Split", "Pad", "Resize", "Reshape", "Transpose", "Squeeze",
    "Unsqueeze", "Flatten", "Slice",
})  # fmt: skip

WEIGHTED = frozenset({"MatMul", "Gemm", "Conv"})

# The same values in another arrangement: what is known of the input is known of the output.
_ARRANGING = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"})

# What ONNX Runtime moves conversions past.
_MOVED_PAST = _ARRANGING | {"MaxPool", "Slice"}

# Between scores and Softmax stand masks of -10000 or -inf: rounded to one scale with them, every score is 0.
_SCORE_OPS = frozenset({"Add", "Sub", "Mul", "Div", "Where", "Reshape", "Cast", "Min", "Max", "Clip"})


def possible(graph: ir.Graph, weighted: Collection[ir.Node]) -> list[ir.Node]:
    """The nodes with integer forms. A product with a constant is one only if its weight can be quantized."""
    found = []
    for node in graph:
        if node.op_type not in QDQ_OPS or node.domain:
            continue
        constant = any(value is not None and value.const_value is not None for value in node.inputs[:2])
        if node.op_type in WEIGHTED and constant and node not in weighted:
            continue
        # QLinearMatMul leaves its output unwritten where there is nothing to sum (onnxruntime 1.31).
        if node.op_type in WEIGHTED and any(_is_empty(value) for value in node.inputs[:2]):
            continue
        # The quantizer gives the input of Relu and Clip the range of their output, even where a caller reads it.
        first = node.inputs[0]
        if node.op_type in ("Relu", "Clip") and first is not None and first.is_graph_output():
            continue
        found.append(node)
    return found


def score_path(graph: ir.Graph) -> set[str]:
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


def captured_path(graph: ir.Graph) -> set[str]:
    """Names of the nodes that only rearrange what the bodies of If and Loop read from around them.

    ONNX Runtime moves a DequantizeLinear past such a node, and aborts the process at a reader that is a body (1.31).
    """
    found: set[str] = set()
    readers = (node for node in ir.traversal.RecursiveGraphIterator(graph) if node.graph is not graph)
    pending = [value for node in readers for value in node.inputs]
    while pending:
        value = pending.pop()
        node = value.producer() if value is not None else None
        if node is not None and node.graph is graph and node.op_type in _MOVED_PAST and node.name not in found:
            found.add(str(node.name))
            pending.append(node.inputs[0])
    return found


def tensors(nodes: Iterable[ir.Node]) -> list[ir.Value]:
    """What the nodes read and write, constants left out, each once."""
    values = (value for node in nodes for value in (*node.inputs, *node.outputs))
    return list(dict.fromkeys(value for value in values if value is not None and value.const_value is None))


def origin(value: ir.Value) -> ir.Value:
    """The tensor that holds the values of `value`, before they were rearranged."""
    node = value.producer()
    while node is not None and node.op_type in _ARRANGING and not node.domain:
        first = node.inputs[0]
        if first is None or first.const_value is not None:
            break
        value, node = first, first.producer()
    return value


def _is_empty(value: ir.Value | None) -> bool:
    while value is not None and (node := value.producer()) is not None and node.op_type in _ARRANGING:
        value = node.inputs[0]
    return value is not None and value.const_value is not None and not value.const_value.size


def watched(nodes: Iterable[ir.Node]) -> dict[str, int | None]:
    """What calibration has to see for `nodes`: tensors, and the axis that a weight sums over, where one does."""
    nodes = list(nodes)
    watch: dict[str, int | None] = {str(origin(value).name): None for value in tensors(nodes)}
    for node in nodes:
        if node.op_type in WEIGHTED and (source := node.inputs[0]) is not None and source.const_value is None:
            weight = node.inputs[1]
            if weight is not None and weight.const_value is not None:
                watch[str(source.name)] = 1 if node.op_type == "Conv" else -1
    return watch


def is_float(node: ir.Node, floats: Collection[str]) -> bool:
    """Does the node compute float32 from float32? Shape arithmetic and other dtypes stay as they are."""
    first = node.inputs[0]
    computes = first is not None and (first.name in floats or first.const_value is not None)
    return computes and all(value.name in floats for value in node.outputs)
