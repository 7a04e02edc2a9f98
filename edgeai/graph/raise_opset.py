"""The same model in a newer opset, by ONNX's own version converter.

Newer opsets say in one operator (Gelu, Attention) what older ones spell out; only there can other passes write it.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx_ir as ir
from onnx import version_converter

_LARGE_BYTES = 1 << 14  # scales, axes and shapes, which some conversions read, are smaller


class RaiseOpset(ir.passes.FunctionalPass):
    """To `version` at least. A runtime older than that opset will not open the result any more.

    Raises what the converter raises where it knows no way; `optimize` then goes on without it.
    """

    def __init__(self, version: int) -> None:
        super().__init__()
        self.version = version

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        copy = model.clone()
        if copy.opset_imports.get("", 0) >= self.version:
            return ir.passes.PassResult(copy, modified=False)
        weights = _hide_weights(copy)
        ir.external_data.load_to_model(copy)  # the checker looks for files in the working directory
        proto = ir.to_proto(copy)
        del proto.graph.value_info[:]  # what the converter adds must not be checked against another opset's shapes
        onnx.checker.check_model(proto)
        raised = ir.from_proto(version_converter.convert_version(proto, self.version))
        _show_weights(raised, weights)
        raised.metadata_props.update(model.metadata_props)
        _keep_shapes(copy, raised)
        return ir.passes.PassResult(raised, modified=True)

    def ensures(self, model: ir.Model) -> None:
        if model.opset_imports.get("", 0) < self.version:
            raise ir.passes.PostconditionError(f"the opset is {model.opset_imports.get('', 0)}, not {self.version}")


def _hide_weights(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """Make inputs of the large constants: the converter copies each several times, and looks at none of them."""
    hidden: dict[str, ir.TensorProtocol] = {}
    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.nbytes < _LARGE_BYTES or value.is_graph_input() or value.is_graph_output():
            continue
        hidden[name] = tensor
        value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
        value.const_value = None
        del model.graph.initializers[name]
        model.graph.inputs.append(value)
    return hidden


def _show_weights(model: ir.Model, hidden: Mapping[str, ir.TensorProtocol]) -> None:
    for value in [value for value in model.graph.inputs if value.name in hidden]:
        model.graph.inputs.remove(value)
        value.const_value = hidden[str(value.name)]
        model.graph.register_initializer(value)


def _keep_shapes(before: ir.Model, after: ir.Model) -> None:
    """The exporter's names of sizes say which axes are equal, and cannot be inferred again."""
    known = {value.name: value for node in before.graph for value in node.outputs}
    for node in after.graph:
        for value in node.outputs:
            old = known.get(value.name)
            if old is not None and old.shape is not None:
                value.shape, value.type = old.shape, old.type
