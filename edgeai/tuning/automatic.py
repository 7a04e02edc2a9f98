"""`-p auto`: every recipe within the accuracy budget, measured against the float file, and the best of them or none."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeai import bench, modelfile
from edgeai.agreement import MetricAgreement
from edgeai.artifact import Artifact
from edgeai.caching import with_empty_cache
from edgeai.errors import EdgeAIError, QuantizationError, UsageError
from edgeai.machine import Machine, machine
from edgeai.metrics import Metric
from edgeai.progress import SILENT, Progress
from edgeai.quantization import RECIPES, Int8Dynamic, Int8Static, Recipe
from edgeai.runtime.loading import load
from edgeai.samples import Samples
from edgeai.storage import refuse_existing
from edgeai.tuning.budget import Budgeted, within_budget
from edgeai.tuning.candidates import BASELINE
from edgeai.tuning.choice import Measured, choose
from edgeai.tuning.judging import find_metric, labelled
from edgeai.tuning.measuring import WORKLOAD, file_bytes, ratio_of, time_together
from edgeai.tuning.splits import Splits
from edgeai.verification import sample_batch

# What may win on a CPU: int4 and half precision are asked for by name, for a decoder or another target.
RECIPES_TRIED = ("int8-static", "int8-dynamic")
_FULL_RANGE = " full-range"


@dataclass(frozen=True)
class Row:
    """One recipe: size, metric and latency against the float file, and why it is or is not kept."""

    name: str
    size_bytes: int
    ratio: tuple[float, float, float] | None
    metric: MetricAgreement | None
    kept_float: tuple[str, ...]
    float_share: float
    reason: str


@dataclass(frozen=True)
class AutoReport:
    """`artifact` is None where the float file is the best there is; `rows` start with it."""

    chosen: str
    artifact: Artifact | None
    rows: tuple[Row, ...]


def quantize_auto(
    artifact: Artifact,
    splits: Splits,
    metric: Metric,
    *,
    out: str | Path,
    max_drop: float = 0.005,
    output: str | None = None,
    recipes: Sequence[Recipe] | None = None,
    seconds: float | None = None,
    resume: Path | None = None,
    force: bool = False,
    overwrite: bool = False,
    workload: bench.Workload = WORKLOAD,
    progress: Progress = SILENT,
) -> AutoReport:
    """Write the best form of `artifact` that keeps its accuracy to `out`, if it is better than the float file.

    Of `recipes` that are named, one that is smaller is kept even where it is slower. `seconds` is shared by the
    recipes. `resume` is a directory that keeps what was found out. `force` writes the best quantized form even where
    the float file is better; then only a budget that does not hold stops it.
    Where this CPU would clamp sums, weights with one bit unused are measured against all eight bits with exact kernels
    (`session.x64quantprecision`, which `load` sets for such a file by its lineage).
    Raises ExistsError if `out` is there; a recipe that cannot be applied is a row with the reason.
    """
    refuse_existing(out, overwrite)
    chosen = {recipe.name: recipe for recipe in recipes} if recipes else _tried(machine())
    if resume is not None:
        resume.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="edgeai-auto-") as temporary:
        directory = Path(temporary)
        made: dict[str, Budgeted] = {}
        refused: dict[str, str] = {}
        for name, recipe in chosen.items():
            if name.endswith(_FULL_RANGE) and _is_full(made.get(recipe.name)):
                continue
            file = name.replace(" ", "-")
            try:
                made[name] = within_budget(
                    artifact, recipe, splits, metric, out=directory / f"{file}.onnx", max_drop=max_drop,
                    output=output, seconds=None if seconds is None else seconds / len(chosen),
                    resume=None if resume is None else resume / f"{file}.json", progress=progress,
                )  # fmt: skip
            except EdgeAIError as error:
                refused[name] = error.message
                progress.log(f"{name}: {error.message}")
        rows, winner = _judged(
            artifact, made, refused, splits.search, directory, workload, progress, force=force,
            named=recipes is not None,
        )  # fmt: skip
        if winner == BASELINE:
            return AutoReport(winner, None, rows)
        best = made[winner].artifact
        kept = modelfile.save(
            modelfile.load(best.path), Artifact(Path(out), best.lineage, best.signature), overwrite=overwrite
        )
    return AutoReport(winner, kept, rows)


def _tried(target: Machine) -> dict[str, Recipe]:
    tried: dict[str, Recipe] = {name: RECIPES[name]() for name in RECIPES_TRIED}
    if target.has_int8_dot_product:
        return tried
    full: tuple[Recipe, ...] = (Int8Static(reduce_range=False), Int8Dynamic(reduce_range=False))
    return tried | {recipe.name + _FULL_RANGE: recipe for recipe in full}


def _is_full(made: Budgeted | None) -> bool:
    """Did the recipe use all eight bits by itself, since calibration showed that the sums fit?"""
    return made is not None and made.artifact.lineage[-1].options.get("reduce_range") is False


def _judged(
    artifact: Artifact, made: Mapping[str, Budgeted], refused: Mapping[str, str], samples: Samples, directory: Path,
    workload: bench.Workload, progress: Progress, *, force: bool, named: bool,
) -> tuple[tuple[Row, ...], str]:  # fmt: skip
    paths = {BASELINE: artifact.path} | {name: one.artifact.path for name, one in made.items()}
    report = time_together(paths, samples, directory, workload, progress)
    size = {name: file_bytes(path) for name, path in paths.items()}
    measured = {name: _measured(name, size[name], report, made.get(name)) for name in paths}
    choice = choose(measured[BASELINE], [one for name, one in measured.items() if name != BASELINE])
    winner, reasons = choice.name, dict(choice.reasons)
    if winner == BASELINE and (force or named):
        allowed = [one for name, one in measured.items() if name != BASELINE and not one.refused]
        kept = [one for one in allowed if force or one.size_bytes < size[BASELINE]]
        if kept:
            winner = min(kept, key=lambda one: one.ratio).name
            reasons |= {BASELINE: f"replaced by {winner}, as asked", winner: f"kept as asked: {reasons[winner]}"}
    rows = [
        Row(
            name, size[name], ratio_of(report, name), one.final if (one := made.get(name)) else None,
            one.kept_float if one else (), one.float_share if one else 0.0,
            reasons[name] + ("" if one is None or one.resolved else f"; the drop is {one.unresolved}"),
        )
        for name in paths
    ]  # fmt: skip
    rows += [Row(name, 0, None, None, (), 0.0, reason) for name, reason in refused.items()]
    return tuple(rows), winner


def _measured(name: str, size: int, report: bench.Report, budgeted: Budgeted | None) -> Measured:
    refused = "" if budgeted is None or budgeted.holds else f"the accuracy does not hold: {budgeted.summary}"
    if name == BASELINE:
        return Measured(name, size, refused=refused)
    return Measured(name, size, *(ratio_of(report, name) or (1.0, 0.0, math.inf)), refused)


def search(
    artifact: Artifact,
    samples: Samples,
    *,
    out: str | Path,
    metric: str | None = None,
    max_drop: float = 0.005,
    output: str | None = None,
    recipes: Sequence[Recipe] | None = None,
    seconds: float | None = None,
    resume: Path | None = None,
    force: bool = False,
    overwrite: bool = False,
    seed: int = 0,
    progress: Progress = SILENT,
) -> AutoReport:
    """`quantize_auto` of samples that are split here, by a metric that is named, or follows from the labels.

    Without labels the float model's own answers are what the cosine is taken with. Raises UsageError for a metric or
    an output that is not there, DataError for samples that cannot be split, and what `quantize_auto` raises.
    """
    refuse_existing(out, overwrite)
    signature = artifact.signature or modelfile.signature_of(modelfile.load(artifact.path))
    scored = next((spec for spec in signature.outputs if output in (None, spec.name)), None)
    if scored is None:
        raise UsageError(f"no output {output}", hint=f"there are {', '.join(signature.output_names)}")
    samples = with_empty_cache(samples, signature)
    judge = find_metric(metric, samples.labels, len(scored.shape))
    with load(artifact.path, ep="cpu") as reference:
        known = labelled(samples, reference, judge, scored.name, sample_batch(signature))
    progress.log(f"judged by {judge.name} on {len(samples)} samples in three splits")
    return quantize_auto(
        artifact, Splits.of(known, seed=seed), judge, out=out, max_drop=max_drop, output=scored.name,
        recipes=recipes, seconds=seconds, resume=resume, force=force, overwrite=overwrite, progress=progress,
    )  # fmt: skip


def require_kept(report: AutoReport) -> Artifact:
    """Raise QuantizationError, with what each recipe lost by, where nothing better than the float file was found."""
    if report.artifact is None:
        lost = "; ".join(f"{row.name}: {row.reason}" for row in report.rows[1:])
        raise QuantizationError(f"not written: the float file is the best form here ({lost})", hint="--force keeps one")
    return report.artifact
