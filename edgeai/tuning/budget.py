"""As many layers as integers as the accuracy allows: which to leave in float, found by measurement.

Each layer is quantized alone and judged by how far it moves the output; then, with the layers in that order,
bisection finds the fewest that have to stay in float for the metric to hold; then each of those gets a second chance.
Calibration, search and the final score use samples of their own.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgeai import modelfile
from edgeai.agreement import MetricAgreement
from edgeai.artifact import Artifact
from edgeai.comparison import difference
from edgeai.errors import QuantizationError
from edgeai.machine import machine
from edgeai.metrics import Metric
from edgeai.progress import SILENT, Progress
from edgeai.quantization import Recipe, Setting, quantize
from edgeai.quantization.preparation import prepare
from edgeai.runtime.engine import Engine
from edgeai.runtime.loading import load
from edgeai.runtime.remembered import RememberedEngine
from edgeai.samples import Samples
from edgeai.scoring import score
from edgeai.storage import sha256
from edgeai.tuning.journal import Journal
from edgeai.tuning.layers import Group, groups
from edgeai.tuning.raising import raise_opset
from edgeai.tuning.splits import Splits
from edgeai.verification import labelled_feeds

_SENSITIVITY_SAMPLES = 32
R = TypeVar("R", bound=Recipe)


@dataclass(frozen=True)
class Sensitivity:
    """How far the output moves (relative distance) when this group alone is quantized."""

    group: Group
    distance: float


@dataclass(frozen=True)
class Budgeted:
    """`kept_float` are the nodes left in float; `final` is the score on samples that nothing was chosen on.

    `holds` says that the drop is within the budget there; `resolved` that its interval lies on one side of it.
    `complete` is False where the time ran out before the second chances were all given.
    """

    artifact: Artifact
    kept_float: tuple[str, ...]
    float_share: float
    sensitivities: tuple[Sensitivity, ...]
    tried: int
    final: MetricAgreement
    max_drop: float
    complete: bool

    @property
    def holds(self) -> bool:
        return self.final.drop <= self.max_drop

    @property
    def resolved(self) -> bool:
        return self.final.high <= self.max_drop or self.final.low > self.max_drop

    @property
    def unresolved(self) -> str:
        """What is said of a drop whose interval reaches across the budget."""
        return f"not resolved with {self.final.samples} samples"

    @property
    def summary(self) -> str:
        """One line: the metric before and after, with its interval, and whether so few samples can tell."""
        m = self.final
        said = f"{m.name} {m.reference:.4g} -> {m.candidate:.4g}, a drop of {m.drop:.2%} ({m.low:.2%} to {m.high:.2%})"
        verdict = "within" if self.holds else "beyond"
        unsure = "" if self.resolved else f", {self.unresolved}"
        kept = f"{len(self.kept_float)} nodes with {self.float_share:.0%} of the weights stay in float"
        return f"{said}: {verdict} {self.max_drop:.2%}{unsure}; {kept}"


def within_budget(
    artifact: Artifact,
    recipe: R,
    splits: Splits,
    metric: Metric,
    *,
    out: str | Path,
    max_drop: float = 0.005,
    output: str | None = None,
    seconds: float | None = None,
    resume: Path | None = None,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> Budgeted:
    """Quantize what the metric can bear and write it to `out`.

    `recipe` must have a field `exclude` of node names. `max_drop` is relative to the float model's metric on `output`
    (default: the first). After `seconds` the best that was found so far is taken. `resume` is a file that keeps what
    was measured. Raises QuantizationError if no layer at all can be quantized within the budget, DataError for a
    `resume` of another search, and what `quantize` raises.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="edgeai-budget-") as directory:
        artifact = raise_opset(
            artifact, recipe, splits.calibration, out=Path(directory, "raised.onnx"), progress=progress
        )
        search = _Search(artifact, recipe, splits, metric, output, max_drop, resume, Path(directory), progress)
        try:
            order = search.sensitivities()
            kept, complete = search.fewest_in_float(order, deadline)
            names = tuple(name for group in kept for name in group.nodes)
            draft = quantize(
                artifact, search.excluding(names), samples=splits.calibration,
                out=Path(directory, "chosen.onnx"), progress=progress,
            )  # fmt: skip
            with load(draft.path, ep="cpu") as engine:
                final = search.score(engine, splits.score)
            written = modelfile.save(
                modelfile.load(draft.path), dataclasses.replace(draft, path=Path(out)), overwrite=overwrite
            )
        finally:
            search.reference.close()
    total = sum(one.group.elements for one in order)
    share = sum(group.elements for group in kept) / total if total else 0.0
    found = Budgeted(written, names, share, tuple(order), search.tried, final, max_drop, complete)
    if not found.holds and found.resolved:
        progress.log(f"the budget does not hold on the samples kept for the score: {found.summary}")
    return found


def _excluded(recipe: Recipe) -> tuple[str, ...]:
    return tuple(getattr(recipe, "exclude", ()))


class _Search:
    """One model, one recipe, one budget: every question is answered once."""

    def __init__(
        self, artifact: Artifact, recipe: Recipe, splits: Splits, metric: Metric, output: str | None, max_drop: float,
        resume: Path | None, directory: Path, progress: Progress,
    ) -> None:  # fmt: skip
        self._recipe, self._splits, self._metric, self._output = recipe, splits, metric, output
        self._max_drop, self._progress, self._directory = max_drop, progress, directory
        self._artifact = artifact
        self._model = prepare(modelfile.load(artifact.path), artifact.path)
        signature = artifact.signature or modelfile.signature_of(self._model)
        self._setting = Setting(str(artifact.path), signature, splits.calibration, machine(), SILENT)
        self.reference = RememberedEngine(load(artifact.path, ep="cpu"))
        self.tried = 0
        data = [part.digests() for part in (splits.calibration, splits.search)]
        subject = [sha256(artifact.path), recipe.name, _plain(recipe), metric.name, output, data]
        self._journal = Journal(resume, subject)

    def sensitivities(self) -> list[Sensitivity]:
        """The groups that the recipe would quantize, the most harmful first."""
        applied = self.excluding(()).apply(self._model.clone(), self._setting).model
        found = groups(self._model, applied)
        few = self._splits.search.take(slice(0, _SENSITIVITY_SAMPLES))
        measured = []
        with self._progress.task("layers alone", len(found)) as advance:
            for group in found:
                rest = [name for other in found if other is not group for name in other.nodes]
                distance = self._journal.ask(["alone", group.name], partial(self._distance, rest, few))
                measured.append(Sensitivity(group, float(distance)))
                advance(note=group.name)
        return sorted(measured, key=lambda one: -one.distance)

    def fewest_in_float(self, order: Sequence[Sensitivity], deadline: float | None) -> tuple[list[Group], bool]:
        """The groups that stay in float, and whether every one of them got its second chance."""
        ranked = [one.group for one in order]
        low, high = 0, len(ranked)  # the answer lies in low..high; high always holds
        if self._holds([]):
            return [], True
        while high - low > 1:
            middle = (low + high) // 2
            if self._holds(ranked[:middle]):
                high = middle
            else:
                low = middle
        if high == len(ranked):
            raise QuantizationError(
                f"{self._artifact.path}: with {self._recipe.name} the {self._metric.name} holds only with every layer "
                f"in float (drop beyond {self._max_drop:.2%})",
                hint="allow a larger --max-drop, or try another recipe",
            )
        kept = ranked[:high]
        # The largest first: what comes back there saves most.
        for group in sorted(kept[:-1], key=lambda one: -one.elements):
            if deadline is not None and time.monotonic() > deadline:
                self._progress.log("the time is up: taking the best so far")
                return kept, False
            fewer = [other for other in kept if other is not group]
            if self._holds(fewer):
                kept = fewer
        return kept, True

    def _holds(self, kept: Sequence[Group]) -> bool:
        names = sorted(name for group in kept for name in group.nodes)
        drop = self._journal.ask(["together", names], partial(self._drop, names))
        self.tried += 1
        self._progress.log(f"{len(kept)} groups in float: {self._metric.name} drops by {drop:.2%}")
        return float(drop) <= self._max_drop

    def _drop(self, names: Sequence[str]) -> float:
        with load(self._quantized(names), ep="cpu") as engine:
            return self.score(engine, self._splits.search).drop

    def score(self, engine: Engine, samples: Samples) -> MetricAgreement:
        """The metric of the float model and of `engine`."""
        return score(self.reference, engine, labelled_feeds(engine.signature, samples), self._metric, self._output)

    def _distance(self, names: Sequence[str], samples: Samples) -> float:
        name = self._output or self._setting.signature.outputs[0].name
        squares = np.zeros(4)
        with load(self._quantized(names), ep="cpu") as engine:
            for feed, _ in labelled_feeds(engine.signature, samples):
                squares += difference(self.reference.run(feed)[name], engine.run(feed)[name]).squares
        return float(np.sqrt(squares[2] / squares[0])) if squares[0] else float(squares[2] > 0)

    def excluding(self, names: Sequence[str]) -> Recipe:
        """The recipe with these nodes in float too; what it observes on the calibration samples serves the next."""
        recipe: Any = self._recipe
        known = {"cache": str(self._directory / "calibration")} if getattr(recipe, "cache", "") is None else {}
        changed: Recipe = dataclasses.replace(recipe, exclude=(*_excluded(recipe), *names), **known)
        return changed

    def _quantized(self, excluded: Sequence[str]) -> Path:
        applied = self.excluding(excluded).apply(self._model.clone(), self._setting)
        path = self._directory / "candidate.onnx"
        modelfile.save(applied.model, Artifact(path, (), self._setting.signature), overwrite=True)
        return path


def _plain(recipe: Recipe) -> dict[str, Any]:
    assert dataclasses.is_dataclass(recipe)
    return {field.name: repr(getattr(recipe, field.name)) for field in dataclasses.fields(recipe)}
