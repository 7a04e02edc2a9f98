"""After a rewrite: the float weights go, and names that the file had already used for something else become unique."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common


def tidy(model: ir.Model) -> None:
    """Change `model`. Optional outputs that are left out stay so: one with a name would be computed."""
    common.RemoveUnusedNodesPass()(model)
    nodes = ir.traversal.RecursiveGraphIterator(model.graph)
    left_out = [value for node in nodes for value in node.outputs if not value.name]
    common.NameFixPass()(model)
    for value in left_out:
        value.name = ""
