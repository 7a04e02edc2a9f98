"""Bring a float model from anywhere into the form that recipes work on, or say why it cannot be quantized."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from edgeai.errors import QuantizationError
from edgeai.quantization.coverage import WEIGHTED_OPS, quantized_marks
from edgeai.runtime.kv_cache import KEEP


class _FixDefaults(ir.passes.InPlacePass):
    """No initializer may be replaced by an input, but for the one that the runtime of decoders sets."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        kept = [value for value in model.graph.inputs if not value.is_initializer() or value.name == KEEP]
        modified = len(kept) < len(model.graph.inputs)
        model.graph.inputs[:] = kept
        return ir.passes.PassResult(model, modified=modified)


_PLAIN = ir.passes.Sequential(
    common.InlinePass(),  # a weight inside a model-local function is behind a parameter
    _FixDefaults(),
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
)

# The first IR version whose initializers need not be inputs of their graph as well.
_CONSTANTS_NEED_NO_INPUT = 4


def prepare(model: ir.Model, what: object) -> ir.Model:
    """A copy with functions inlined, constants as initializers, plain Gemms, and names for all nodes, bodies included.

    Raises QuantizationError if the model is quantized already or is malformed.
    """
    if marks := quantized_marks(model):
        raise QuantizationError(
            f"{what}: is quantized already (it has {', '.join(marks)})",
            hint="start from the float model, or copy this one as it is: --quantized-input pass",
        )
    try:
        plain = _PLAIN(model.clone()).model
    except Exception as error:  # the passes meet graphs from anywhere and raise what the graph makes them raise
        raise QuantizationError(f"{what}: cannot be rewritten: {error.__cause__ or error}") from error
    plain.ir_version = max(plain.ir_version, _CONSTANTS_NEED_NO_INPUT)
    _name_nodes(plain)
    for node in ir.traversal.RecursiveGraphIterator(plain.graph):
        if node.op_type == "Gemm" and node.domain == "":
            _unscale_gemm(node)
    return plain


def weighted_nodes(model: ir.Model) -> list[ir.Node]:
    """The MatMul, Gemm and Conv nodes of the main graph whose input 1 is a constant float32 weight, in graph order.

    Of MatMul and Gemm only those that multiply with one matrix, unscaled and not transposing their activations:
    integer kernels have no channels for a stack of matrices. What stands in If and Loop bodies is not looked at.
    """
    return [node for node in model.graph if node.domain == "" and _is_weighted(node)]


def refuse_weightless(model: ir.Model, candidates: list[ir.Node], what: object, operators: str) -> None:
    """Raise QuantizationError, with what there is instead, if a recipe has no `candidates` among `operators`."""
    if candidates:
        return
    main = set(model.graph)
    elsewhere: dict[str, None] = {}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.op_type in WEIGHTED_OPS and node.domain in ("", "com.microsoft"):
            place = "" if node in main else " inside a subgraph"
            elsewhere[f"{node.op_type}{place} with {_weight_text(node)}"] = None
    reason = f"; it has {', '.join(elsewhere)}" if elsewhere else ""
    raise QuantizationError(
        f"{what}: no {operators} has a constant float32 weight{reason}",
        hint="optimize it first: that folds constants into weights" if "no constant" in reason else "",
    )


def _is_weighted(node: ir.Node) -> bool:
    if node.op_type not in ("MatMul", "Gemm", "Conv"):
        return False
    value = node.inputs[1]
    tensor = value.const_value if value is not None and value.is_initializer() else None
    if tensor is None or tensor.dtype is not ir.DataType.FLOAT or not tensor.size:
        return False
    if node.op_type == "Gemm":
        scaled = node.attributes.get_float("alpha", 1.0) != 1.0 or node.attributes.get_float("beta", 1.0) != 1.0
        return not scaled and node.attributes.get_int("transA", 0) == 0
    return node.op_type == "Conv" or len(tensor.shape) == 2


def _weight_text(node: ir.Node) -> str:
    for position in WEIGHTED_OPS[node.op_type]:
        value = node.inputs[position] if position < len(node.inputs) else None
        if value is not None and value.const_value is not None:
            shape = tuple(value.const_value.shape.numpy())
            return f"the {value.const_value.dtype.name.lower()} weight {value.name} {shape}"
    return "no constant weight"


def _unscale_gemm(node: ir.Node) -> None:
    """Gemm's alpha and beta into its weight and its bias, where both are constant: quantizers get them wrong."""
    for attribute, position in (("alpha", 1), ("beta", 2)):
        factor = node.attributes.get_float(attribute, 1.0)
        value = node.inputs[position] if position < len(node.inputs) else None
        if factor == 1.0 or (value is not None and (value.const_value is None or value.is_graph_input())):
            continue
        if value is not None and value.const_value is not None:
            array = value.const_value.numpy()
            tensor = ir.tensor((array * array.dtype.type(factor)).astype(array.dtype))
            name = f"{node.name}_{attribute}_times_{value.name}"
            scaled = ir.Value(name=name, shape=value.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
            assert isinstance(node.graph, ir.Graph)
            node.graph.register_initializer(scaled)
            node.replace_input_with(position, scaled)
        node.attributes.pop(attribute)


def _name_nodes(model: ir.Model) -> None:
    taken: set[str] = set()
    for index, node in enumerate(ir.traversal.RecursiveGraphIterator(model.graph)):
        name = node.name or f"{node.op_type}_{index}"
        while name in taken:
            name = f"{name}_{index}"
        node.name = name
        taken.add(name)
