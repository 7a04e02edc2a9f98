"""Take out what does not compute: unused, repeated and pass-through nodes, and notes that leak source paths."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

_STEPS = ir.passes.Sequential(
    # Old files list their weights as inputs too; a weight that may be overridden is not a constant to anyone.
    common.RemoveInitializersFromInputsPass(),
    common.LiftConstantsToInitializersPass(),
    common.IdentityEliminationPass(),
    # By content hash, then byte for byte: exporters write the same weight once for every use.
    common.DeduplicateHashedInitializersPass(),
    common.CommonSubexpressionEliminationPass(),
    common.RemoveUnusedNodesPass(),
    common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
    common.RemoveUnusedOpsetsPass(),
    common.ClearMetadataAndDocStringPass(),
)


class CleanUp(ir.passes.InPlacePass):
    """onnx_ir's own clean-up passes, in the order in which one makes work for the next."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return _STEPS(model)
