"""Softmax(Q K^T * scale + mask) V, spelled out in a dozen nodes -> one MultiHeadAttention.

The patterns are onnxscript's; the choice among them is ours. Stopping at MultiHeadAttention leaves the
projections as MatMul, where a quantizer finds them; the packed `Attention` would keep their weights in float.
SkipLayerNormalization is left out too: its CPU kernel can be slower than the two nodes that it replaces.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnxscript.optimizer import optimize as fold_constants
from onnxscript.rewriter.ort_fusions.mha import fuse_mha1, fuse_mha2
from onnxscript.rewriter.ort_fusions.mha_scale import fuse_mha_scale
from onnxscript.rewriter.ort_fusions.sdpa import fuse_sdpa
from onnxscript.rewriter.ort_fusions.sdpa_via_mha import replace_sdpa_by_mha

CONTRIB_DOMAIN = "com.microsoft"


class FuseAttention(ir.passes.FunctionalPass):
    """Writes ONNX Runtime's own operators; a graph without a match comes back as it was."""

    writes_contrib = True

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        fused = model.clone()
        common.ShapeInferencePass()(fused)
        fold_constants(fused)
        matches = fuse_sdpa(fused, apply_shape_inference=True)
        if not matches:
            return ir.passes.PassResult(model.clone(), modified=False)
        fuse_mha1(fused)
        fuse_mha2(fused)
        fuse_mha_scale(fused)
        replace_sdpa_by_mha(fused)
        fold_constants(fused)  # inlines what the fusions wrote as functions, drops what they left unused
        common.IdentityEliminationPass()(fused)
        return ir.passes.PassResult(fused, modified=True)

    def ensures(self, model: ir.Model) -> None:
        uses = any(node.domain == CONTRIB_DOMAIN for node in model.graph)
        if uses and CONTRIB_DOMAIN not in model.graph.opset_imports:
            raise ir.passes.PostconditionError(f"{CONTRIB_DOMAIN} is used but not imported")
