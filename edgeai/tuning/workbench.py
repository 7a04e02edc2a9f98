"""What the search has done for it, for real: files written, linted, timed, judged. A journal keeps each answer."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import onnx_ir as ir

from edgeai import bench, modelfile, verification
from edgeai.agreement import Agreement, Finding
from edgeai.artifact import Artifact
from edgeai.errors import EdgeAIError, QuantizationError
from edgeai.graph import optimize
from edgeai.graph.share_cache import cache_objection
from edgeai.linting import lint
from edgeai.modelfile import open_artifact
from edgeai.progress import SILENT, Progress
from edgeai.quantization import quantize
from edgeai.quantization.calibration import model_digest
from edgeai.quantization.sessions import open_session
from edgeai.runtime.engine import Engine
from edgeai.runtime.kv_cache import IN_PLACE
from edgeai.runtime.loading import load
from edgeai.tuning.budget import within_budget
from edgeai.tuning.candidates import FUSIONS, Plan, Point
from edgeai.tuning.countdown import Countdown
from edgeai.tuning.data import Data
from edgeai.tuning.exploring import Judged
from edgeai.tuning.journal import Journal
from edgeai.tuning.measuring import file_bytes
from edgeai.tuning.objective import Figures, Objective
from edgeai.tuning.raising import raise_opset
from edgeai.tuning.timing import measure_points, most_together, save_inputs
from edgeai.tuning.whole_texts import one_text, time_texts

# A recipe whose integers stay below this share of the weights changes too little to be measured.
_LEAST_INTEGER_SHARE = 0.05
_SLOW = frozenset({"slow-convolution"})


class Workbench:
    """The `Laboratory` of one float model. `directory` keeps files and journal: given again, it goes on from there."""

    def __init__(
        self,
        baseline: Artifact,
        reference: Engine,
        data: Data,
        directory: Path,
        *,
        objective: Objective,
        workload: bench.Workload,
        max_drop: float,
        countdown: Countdown,
        journal: Journal,
        seed: int = 0,
        progress: Progress = SILENT,
    ) -> None:
        self._baseline, self._reference, self._data, self._directory = baseline, reference, data, directory
        self._objective, self._workload, self._max_drop, self._seed = objective, workload, max_drop, seed
        self._countdown, self._journal, self._progress = countdown, journal, progress
        self._inputs = save_inputs(data.scoring, directory / "timed.npz")
        self.paths: dict[str, Path] = {Plan().name: baseline.path}
        self._digests: dict[str | None, str] = {}
        self._made: dict[tuple[object, ...], str] = {}

    def make(self, plan: Plan) -> str | None:
        path = self._directory / f"{plan.name.replace(' ', '_')}.onnx"
        refused: str | None = self._journal.ask(["make", plan.name], partial(self._refusal, plan, path))
        if refused == "" and not path.exists():  # the journal was kept and the file was not
            refused = self._refusal(plan, path)
        if refused == "":
            self.paths[plan.name] = path
        self._countdown.tick()
        return refused

    def measure(self, some: Sequence[Point], effort: float) -> dict[str, Figures]:
        def find_out() -> dict[str, object]:
            found = measure_points(
                Point(), some, self.paths, self._inputs, self._objective, self._workload,
                effort=effort, seed=self._seed, progress=self._progress,
            )  # fmt: skip
            return {name: one.to_json() for name, one in found.items()}

        answers = self._journal.ask(["measure", effort, [point.name for point in some]], find_out)
        self._countdown.tick()
        return {name: Figures.from_json(data) for name, data in answers.items()}

    def time_texts(self, points: Sequence[Point]) -> Figures:
        def find_out() -> dict[str, object]:
            assert self._baseline.signature is not None
            return time_texts(
                points, self.paths, self._data.scoring, self._baseline.signature, self._workload,
                seed=self._seed, progress=self._progress,
            ).to_json()  # fmt: skip

        return Figures.from_json(self._journal.ask(["texts", *(point.name for point in points)], find_out))

    def judge(self, point: Point) -> Judged:
        found = self._journal.ask(["judge", point.name], lambda: self._verdict(point).to_json())
        agreement = Agreement.from_json(found)
        self._countdown.tick()
        good = agreement.verdict == "verified"
        apart = max((one.distance for one in agreement.outputs), default=0.0)
        loss = agreement.metric.drop if agreement.metric else apart
        return Judged(loss, "" if good else f"{agreement.verdict}: {agreement.findings[0].text}", found)

    def _verdict(self, point: Point) -> Agreement:
        try:
            return self.agreement(point)
        except EdgeAIError as error:  # a candidate that does not open or answer has lost; the float model must
            if point == Point():
                raise
            lost = Finding("failed", f"it does not answer: {error.message.replace(f'{self._directory}/', '')}")
            return Agreement.judge((lost,), (), shapes=(), feeds=0, metric=None)

    def agreement(self, point: Point) -> Agreement:
        """The point against the reference. What was searched within the budget is scored on samples kept for that."""
        splits = self._data.splits if point.plan.in_budget else None
        samples, narrow = self._data.scoring if splits is None else splits.score, point.plan.form == IN_PLACE
        with load(self.paths[point.plan.name], ep=point.provider, settings=point.settings) as candidate:
            return verification.verify(
                self._reference,
                candidate,
                one_text(samples) if narrow else samples,
                signature=candidate.signature if narrow else self._baseline.signature,
                tolerance=dataclasses.replace(verification.QUANTIZED, max_drop=self._max_drop)
                if point.is_lossy
                else verification.EXACT,
                metric=self._data.metric,
                output=self._data.output,
                seed=self._seed,
                progress=self._progress,
            )

    def fired(self, point: Point) -> list[str]:
        return list(self._journal.ask(["fired", point.plan.name], lambda: fired_fusions(self.paths[point.plan.name])))

    def group(self, some: Sequence[Point]) -> int:
        sizes = [file_bytes(self.paths[point.plan.name]) for point in (Point(), *some)]
        return most_together(max(sizes))

    def left(self) -> float:
        return self._countdown.left()

    def log(self, text: str) -> None:
        self._progress.log(text)

    def note(self, text: str) -> None:
        self._countdown.note(text)

    def artifact(self, plan: Plan) -> Artifact:
        """What was made of the plan."""
        return self._baseline if plan == Plan() else open_artifact(self.paths[plan.name])

    def _refusal(self, plan: Plan, path: Path) -> str | None:
        try:
            source = self._form(plan.form)
            key = (
                self._digest(plan.form, source),
                plan.recipe,
                plan.observer,
                plan.scope,
                plan.symmetric,
                plan.in_budget,
            )
            if self._made.setdefault(key, plan.name) != plan.name:
                return None
            if plan.recipe is not None and not path.exists():
                self._quantize(plan, source, path)
                if plan.form == IN_PLACE and (reason := _cache_objection(path)):
                    path.unlink()
                    return f"not possible: with its cache in place {reason}"
        except EdgeAIError as error:  # a form that cannot be made is an answer, not the end of the search
            return f"not possible: {error.message.replace(f'{self._directory}/', '')}"
        return self._lint(plan, path)

    def _form(self, form: str | None) -> Artifact:
        """The float file of a form, written once."""
        if form is None:
            return self._baseline
        path = self._directory / f"{Plan(form).name.replace(' ', '_')}.onnx"
        if path.exists():
            return open_artifact(path)
        samples, progress = self._data.calibration, self._progress
        if form == IN_PLACE:  # it would say that it takes one text at a time, of a file that may never ship
            samples, progress = samples and one_text(samples), SILENT
        return optimize(self._baseline, out=path, form=form, samples=samples, progress=progress)

    def _digest(self, form: str | None, source: Artifact) -> str:
        if form not in self._digests:
            model = modelfile.load(source.path)
            model.graph.opset_imports[""] = 0  # a raised opset alone changes nothing that runs
            self._digests[form] = model_digest(model)
            if form is None:
                self._made[(self._digests[None], None, None, None, False, False)] = Plan().name
        if None not in self._digests:
            self._digest(None, self._baseline)
        return self._digests[form]

    def _quantize(self, plan: Plan, source: Artifact, path: Path) -> None:
        recipe = plan.make_recipe(cache=str(self._directory / "calibration"))
        assert recipe is not None
        calibration = self._data.calibration
        if not plan.in_budget:
            # Not beside the others: what an interrupted search leaves there would be in the way of the next.
            with tempfile.TemporaryDirectory(prefix="raised-", dir=self._directory) as name:
                source = raise_opset(
                    source, recipe, calibration, out=Path(name, "raised.onnx"), progress=self._progress
                )
                quantize(source, recipe, samples=calibration, out=path, progress=self._progress)
            return
        splits, metric = self._data.splits, self._data.metric
        if splits is None or metric is None:
            raise QuantizationError("a search within the budget needs samples with a metric")
        left = self._countdown.left()
        within_budget(
            source, recipe, splits, metric, out=path, max_drop=self._max_drop, output=self._data.output,
            seconds=None if left == math.inf else left / 3, resume=path.with_suffix(".json"), progress=self._progress,
        )  # fmt: skip

    def _lint(self, plan: Plan, path: Path) -> str:
        """Why the file need not be measured: what the linter says of it."""
        if plan.recipe is None or not plan.recipe.startswith("int"):
            return ""
        try:
            report = lint(path, target=plan.provider)
        except EdgeAIError as error:
            return f"not possible: {error.message}"
        if slow := [caution.text for caution in report.cautions if caution.rule in _SLOW]:
            return f"left out by the linter: {slow[0]}"
        if report.integer_share < _LEAST_INTEGER_SHARE:
            why = next((row.reason for row in report.rows if row.runs != "integer" and row.weights), "no weights")
            return f"left out by the linter: {report.integer_share:.0%} of the weights run as integers; {why}"
        return ""


def _cache_objection(path: Path) -> str:
    signature = open_artifact(path).signature
    assert signature is not None
    return cache_objection(path, path, signature)


def fired_fusions(path: Path) -> list[str]:
    """Optimizers of ONNX Runtime that change this file when it is loaded on the CPU, and that can be switched off."""
    with tempfile.TemporaryDirectory(prefix="edgeai-") as name:
        optimized = Path(name) / "optimized.onnx"
        open_session(path, level="extended", optimized=optimized)
        before, after = (_operators(ir.load(file)) for file in (path, optimized))
    return sorted(fusion for kind, fusion in FUSIONS.items() if after[kind] > before[kind])


def _operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in ir.traversal.RecursiveGraphIterator(model.graph))
