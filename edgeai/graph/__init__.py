"""Make the graph say the same with less. One pass a file; each result is proven or rolled back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.errors import UsageError
from edgeai.graph.clean_up import CleanUp
from edgeai.graph.fold_batch_norm import FoldBatchNorm
from edgeai.graph.fold_transposed_weight import FoldTransposedWeight
from edgeai.graph.fuse_attention import FuseAttention
from edgeai.graph.proof import Proof
from edgeai.progress import SILENT, Progress
from edgeai.samples import Samples
from edgeai.storage import refuse_existing

__all__ = [
    "DEFAULT_PASSES",
    "TARGETS",
    "CleanUp",
    "FoldBatchNorm",
    "FoldTransposedWeight",
    "FuseAttention",
    "optimize",
]

# In the order in which one makes work for the next: constants first, then what looks for constants,
# and at the end what the fusions left lying about.
DEFAULT_PASSES: tuple[ir.passes.PassBase, ...] = (
    CleanUp(),
    FoldBatchNorm(),
    FoldTransposedWeight(),
    FuseAttention(),
    CleanUp(),
)

# Where the graph will run, and whether ONNX Runtime's own (com.microsoft) operators run there.
TARGETS: Mapping[str, bool] = {
    "cpu": True,
    "cuda": True,
    "tensorrt": False,
    "openvino": False,
    "portable": False,
}


def optimize(
    artifact: Artifact,
    *,
    out: str | Path,
    passes: Sequence[ir.passes.PassBase] = DEFAULT_PASSES,
    target: str = "cpu",
    samples: Samples | None = None,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> Artifact:
    """Apply `passes` in order and write the model to `out`, with what each did in the lineage.

    After every pass the model must load and must answer `samples` (if given) and generated feeds of several shapes
    as `artifact` does, on the CPU provider; a pass whose result does not is rolled back, and the lineage step names
    it with the reason (`rolled_back`). Passes that write com.microsoft operators are left out (`left_out`) where
    `target` cannot run those.

    Raises UsageError for an unknown target, ExistsError if `out` is there, OptimizationError if the model cannot be
    run on any feed or does not repeat its own answers.
    """
    if target not in TARGETS:
        raise UsageError(f"target {target!r} is unknown", hint=f"one of {', '.join(TARGETS)}")
    refuse_existing(out, overwrite)
    model = modelfile.load(artifact.path)
    signature = artifact.signature or modelfile.signature_of(model)
    nodes_before = _node_count(model)
    proof = Proof.of(artifact, signature, samples)
    applied: list[str] = []
    left_out: list[str] = []
    rolled_back: list[dict[str, str]] = []
    with progress.task("optimize", len(passes)) as advance:
        for pass_ in passes:
            name = type(pass_).__name__
            advance(note=name)
            if getattr(pass_, "writes_contrib", False) and not TARGETS[target]:
                left_out.append(name)
                progress.log(f"{name} left out: {target} does not run com.microsoft operators")
                continue
            result, reason = _attempt(pass_, model, proof)
            if reason:
                rolled_back.append({"pass": name, "reason": reason})
                progress.log(f"{name} rolled back: {reason}")
            elif result.modified:
                applied.append(name)
                model = result.model
    options: dict[str, object] = {
        "target": target,
        "passes": applied,
        "left_out": left_out,
        "rolled_back": rolled_back,
        "feeds": len(proof.feeds),
        "nodes": [nodes_before, _node_count(model)],
    }
    done = artifact.after(modelfile.step("optimize", options, artifact), out, signature)
    return modelfile.save(model, done, overwrite=overwrite)


def _attempt(pass_: ir.passes.PassBase, model: ir.Model, proof: Proof) -> tuple[ir.passes.PassResult, str]:
    """The pass's result on a copy of `model`, and why it must not be kept (empty if it may be)."""
    try:
        result = pass_(model.clone())
    # A rewriter may fail in any way on a graph that its authors never saw; the reason is recorded, not lost.
    except Exception as error:
        cause = error.__cause__ or error
        return ir.passes.PassResult(model, modified=False), f"it failed: {type(cause).__name__}: {cause}"
    return result, proof.objection(result.model) if result.modified else ""


def _node_count(model: ir.Model) -> int:
    return sum(1 for _ in ir.traversal.RecursiveGraphIterator(model.graph))
