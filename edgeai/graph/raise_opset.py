"""The same model in a newer opset, by ONNX's own version converter.

Newer opsets say in one operator (Gelu, Attention) what older ones spell out; only there can other passes write it.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx import version_converter


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
        ir.external_data.load_to_model(copy)
        proto = ir.to_proto(copy)
        del proto.graph.value_info[:]  # what the converter adds must not be checked against another opset's shapes
        onnx.checker.check_model(proto)
        raised = ir.from_proto(version_converter.convert_version(proto, self.version))
        raised.metadata_props.update(model.metadata_props)
        _keep_shapes(copy, raised)
        return ir.passes.PassResult(raised, modified=True)

    def ensures(self, model: ir.Model) -> None:
        if model.opset_imports.get("", 0) < self.version:
            raise ir.passes.PostconditionError(f"the opset is {model.opset_imports.get('', 0)}, not {self.version}")


def _keep_shapes(before: ir.Model, after: ir.Model) -> None:
    """The exporter's names of sizes say which axes are equal, and cannot be inferred again."""
    known = {value.name: value for node in before.graph for value in node.outputs}
    for node in after.graph:
        for value in node.outputs:
            old = known.get(value.name)
            if old is not None and old.shape is not None:
                value.shape, value.type = old.shape, old.type
