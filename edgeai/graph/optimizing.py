"""From a model file to another form of it: by name, by target, or by passes of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from edgeai.artifact import Artifact
from edgeai.errors import UsageError
from edgeai.graph.applying import apply
from edgeai.graph.forms import DEFAULT_FORMS, FORMS, NARROW_FORMS, TARGETS
from edgeai.graph.share_cache import share_cache
from edgeai.progress import SILENT, Progress
from edgeai.runtime.kv_cache import IN_PLACE
from edgeai.samples import Samples


def optimize(
    artifact: Artifact,
    *,
    out: str | Path,
    passes: Sequence[ir.passes.PassBase] | None = None,
    form: str | None = None,
    target: str | None = None,
    samples: Samples | None = None,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> Artifact:
    """Apply `passes` in order and write the model to `out`, with what each did in the lineage.

    Without `passes` they are those of `form` (see `FORMS` and `NARROW_FORMS`), without both those of the target's
    default form. Without `target` it is the first that `form` is for, or the CPU. The form `in-place` is what
    `share_cache` writes, and raises what that does.

    What comes of them must load and must answer `samples` (if given) and generated feeds of several shapes as
    `artifact` does, on the CPU provider. If it does not, this is asked after every pass; one whose result does not is
    rolled back, and the lineage step names it with the reason (`rolled_back`). Passes that write com.microsoft
    operators are left out (`left_out`) where `target` cannot run those.

    Raises UsageError for an unknown target or form, for a form that `target` does not run, and for a model that was
    made for one machine already; ExistsError if `out` is there; OptimizationError if the model cannot be run on any
    feed or does not repeat its own answers.
    """
    target, form, passes = _chosen(target, form, passes)
    if form == IN_PLACE:
        return share_cache(artifact, out=out, target=target, samples=samples, overwrite=overwrite, progress=progress)
    return apply(
        passes, artifact, out=out, form=form, target=target, samples=samples, overwrite=overwrite, progress=progress
    )


def _chosen(
    target: str | None, form: str | None, passes: Sequence[ir.passes.PassBase] | None
) -> tuple[str, str | None, Sequence[ir.passes.PassBase]]:
    forms = {**FORMS, **NARROW_FORMS}
    if target is None:
        target = forms[form].targets[0] if form in forms else "cpu"
    if target not in TARGETS:
        raise UsageError(f"target {target!r} is unknown", hint=f"one of {', '.join(TARGETS)}")
    if passes is not None:
        if form is not None:
            raise UsageError(f"form {form!r} and passes were both given", hint="a form is a choice of passes")
        return target, None, passes
    form = form or DEFAULT_FORMS[target]
    if form not in forms:
        raise UsageError(f"form {form!r} is unknown", hint=f"one of {', '.join(forms)}")
    if target not in forms[form].targets:
        fitting = ", ".join(name for name, known in forms.items() if target in known.targets)
        raise UsageError(f"target {target!r} does not run form {form!r}", hint=f"it runs {fitting}")
    return target, form, forms[form].passes
