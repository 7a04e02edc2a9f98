"""Passes applied to a model file one by one: each result is proven, or rolled back and named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.errors import UsageError
from edgeai.external import metadata
from edgeai.graph.forms import TARGETS
from edgeai.graph.proof import Proof
from edgeai.progress import SILENT, Progress
from edgeai.runtime.made_for import MADE_FOR_KEY
from edgeai.samples import Samples
from edgeai.storage import refuse_existing


def apply(
    passes: Sequence[ir.passes.PassBase],
    artifact: Artifact,
    *,
    out: str | Path,
    form: str | None = None,
    target: str = "cpu",
    samples: Samples | None = None,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> Artifact:
    """`artifact` after `passes`, which make `form` of it, at `out`; see `edgeai.graph.optimize`."""
    refuse_existing(out, overwrite)
    if MADE_FOR_KEY in metadata(artifact.path):
        raise UsageError(
            f"{artifact.path} was made for one machine and cannot be rewritten", hint="start from the portable model"
        )
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
        **({"form": form} if form else {}),
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
