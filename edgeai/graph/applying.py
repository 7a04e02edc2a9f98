"""Passes applied to a model file: what comes of them is proven, or the one at fault is rolled back and named."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.errors import UsageError
from edgeai.external import metadata
from edgeai.graph.forms import TARGETS
from edgeai.graph.proof import Proof
from edgeai.progress import SILENT, Advance, Progress
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
    runs = [pass_ for pass_ in passes if _fits(pass_, target)]
    left_out = [type(pass_).__name__ for pass_ in passes if not _fits(pass_, target)]
    for name in left_out:
        progress.log(f"{name} left out: {target} does not run com.microsoft operators")
    # To prove all of them at once takes one proof; which one is at fault, if any, is worth one of each.
    done = _rewritten(model, runs, progress.task("optimize", len(runs)), proof=None)
    if done.passes and proof.objection(done.model):
        done = _rewritten(model, runs, progress.task("optimize, pass by pass", len(runs)), proof=proof)
    for name, reason in done.rolled_back:
        progress.log(f"{name} rolled back: {reason}")
    options: dict[str, object] = {
        "target": target,
        **({"form": form} if form else {}),
        "passes": done.passes,
        "left_out": left_out,
        "rolled_back": [{"pass": name, "reason": reason} for name, reason in done.rolled_back],
        "feeds": len(proof.feeds),
        "nodes": [nodes_before, _node_count(done.model)],
    }
    written = artifact.after(modelfile.step("optimize", options, artifact), out, signature)
    return modelfile.save(done.model, written, overwrite=overwrite)


def _fits(pass_: ir.passes.PassBase, target: str) -> bool:
    return TARGETS[target] or not getattr(pass_, "writes_contrib", False)


@dataclass
class _Rewritten:
    """`passes` changed `model`; `rolled_back` are those that may not, each with the reason."""

    model: ir.Model
    passes: list[str] = field(default_factory=list)
    rolled_back: list[tuple[str, str]] = field(default_factory=list)


def _rewritten(
    model: ir.Model,
    passes: Sequence[ir.passes.PassBase],
    task: AbstractContextManager[Advance],
    *,
    proof: Proof | None,
) -> _Rewritten:
    """A copy of `model` after `passes`, each of which has to stand `proof` if there is one."""
    done = _Rewritten(model)
    with task as advance:
        for pass_ in passes:
            name = type(pass_).__name__
            advance(note=name)
            result, reason = _attempt(pass_, done.model, proof)
            if reason:
                done.rolled_back.append((name, reason))
            elif result.modified:
                done.passes.append(name)
                done.model = result.model
    return done


def _attempt(pass_: ir.passes.PassBase, model: ir.Model, proof: Proof | None) -> tuple[ir.passes.PassResult, str]:
    """The pass's result on a copy of `model`, and why it must not be kept (empty if it may be)."""
    try:
        result = pass_(model.clone())
    # A rewriter may fail in any way on a graph that its authors never saw; the reason is recorded, not lost.
    except Exception as error:
        cause = error.__cause__ or error
        return ir.passes.PassResult(model, modified=False), f"it failed: {type(cause).__name__}: {cause}"
    return result, proof.objection(result.model) if proof and result.modified else ""


def _node_count(model: ir.Model) -> int:
    return sum(1 for _ in ir.traversal.RecursiveGraphIterator(model.graph))
