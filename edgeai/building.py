"""`edgeai.build`: from a module to the best bundle for this machine, in one call.

Export, tune (see `edgeai.tuning`), verify, pack. A failure anywhere leaves nothing at the bundle's path.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from edgeai import bench, verification
from edgeai.agreement import Agreement
from edgeai.artifact import Artifact
from edgeai.caching import with_empty_cache
from edgeai.eager import EagerEngine
from edgeai.errors import VerificationError
from edgeai.exporting import Source, export, from_module, resolve
from edgeai.machine import machine
from edgeai.metrics import METRICS
from edgeai.modelfile import open_artifact
from edgeai.progress import SILENT, Progress
from edgeai.runtime import load
from edgeai.runtime.engine import Engine
from edgeai.runtime.remembered import RememberedEngine
from edgeai.samples import Samples
from edgeai.storage import refuse_existing
from edgeai.tuning.candidates import BASELINE, Plan
from edgeai.tuning.countdown import Countdown
from edgeai.tuning.data import GOLDEN, Data
from edgeai.tuning.exploring import Trial
from edgeai.tuning.objective import objective_of
from edgeai.tuning.shipping import ship
from edgeai.tuning.space import Space, providers_here
from edgeai.tuning.timing import TIMED, save_inputs, subject
from edgeai.tuning.tuner import Tuned, search

TORCH = "torch"

# Short, and labelled so in the report: enough rounds for an interval of the ratio.
WORKLOAD = bench.Workload(
    min_iterations=100, min_seconds=1.0, max_seconds=4.0, warmup_min_seconds=0.1, warmup_max_seconds=2.0, rounds=8
)
SECONDS = 60.0  # for the search; export and the last measurement come on top


@dataclass(frozen=True)
class Row:
    """One form of the model: what it weighs, how well and how fast it answers, and why it does or does not ship.

    `p50_ns` is the median latency of one feed; `ratio` that median over the exported float model's in the same
    interleaved run, with its 95 % interval. `metric` is None without labelled samples, or where it was not asked.
    """

    name: str
    size_bytes: int | None
    metric: float | None
    p50_ns: int | None
    ratio: tuple[float, float, float] | None
    verdict: str
    reason: str


@dataclass(frozen=True)
class BuildReport:
    """What was built, from which alternatives. `rows` starts with eager PyTorch, then the exported float model."""

    name: str
    bundle: Path
    chosen: str
    provider: str
    metric: str | None
    verdict: str
    rows: tuple[Row, ...]

    def row(self, name: str) -> Row:
        """Raises KeyError for a form that was not considered."""
        return {row.name: row for row in self.rows}[name]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"bundle": str(self.bundle)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BuildReport:
        """The inverse of `to_json`."""
        rows = tuple(Row(**{**row, "ratio": tuple(row["ratio"]) if row["ratio"] else None}) for row in data["rows"])
        return cls(**{**data, "bundle": Path(data["bundle"]), "rows": rows})


def build(
    source: str | nn.Module,
    samples: Samples | None = None,
    *,
    out: str | Path,
    inputs: Sequence[str] = (),
    dynamic: Sequence[str] = (),
    init: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    example: str | Path | None = None,
    task: str | None = None,
    target: str | Sequence[str] = "cpu",
    max_drop: float = 0.005,
    objective: str = "latency",
    seconds: float | None = SECONDS,
    space: Space | None = None,
    workload: bench.Workload = WORKLOAD,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> BuildReport:
    """Make the bundle of `source` that is best on this machine and keeps its accuracy, and prove it.

    `source` is a module, or what the command line takes (see `exporting.sources`); a trained directory brings its
    own samples. `samples` are real inputs, with labels for a metric. `target` is the provider to run on, or those to
    choose among, or "auto" for all that run here. `max_drop` is how much of the metric (relative) a form may lose;
    without labels forms are judged by how far their outputs are off. `objective` is what the search makes small (see
    `edgeai.tune`), for `seconds`; `space` says how far it looks. What was not measured better than the exported float
    model on the CPU, or as good and smaller, is not kept.

    Raises what export raises, VerificationError if the packed bundle does not answer as it should, ExistsError;
    UsageError or ProviderError for a target that is unknown or does not run here.
    """
    out = Path(out)
    refuse_existing(out, overwrite)
    wanted = dataclasses.replace(space or Space(), providers=providers_here(target))
    objective_of(objective)
    found = (
        resolve(
            source, inputs=inputs, dynamic=dynamic, init=init, weights=weights, seed=seed, example=example, task=task
        )
        if isinstance(source, str)
        else from_module(source, None if samples is None else next(samples.feeds(batch=2)))
    )
    data = _data(found, samples, seed)
    with tempfile.TemporaryDirectory(prefix="edgeai-build-") as name:
        directory = Path(name)
        baseline = _baseline(found, data, directory, seed, progress)
        with _reference(found, baseline) as reference:
            first = _verified_baseline(found, baseline, reference, data, seed, progress)
            tuned = search(
                baseline, reference, data, directory, objective=objective, max_drop=max_drop, space=wanted,
                countdown=Countdown(seconds, progress=progress), known=first, seed=seed, workload=workload,
                progress=progress,
            )  # fmt: skip
        eager = None
        if found.module is not None and isinstance(source, str):
            given = {"weights": weights, "example": example, "task": task}
            eager = {"source": source, "inputs": list(inputs), "dynamic": list(dynamic), "init": dict(init or {})}
            eager |= {key: str(value) for key, value in given.items() if value is not None}
        torch = _torch_row(eager, baseline, first, data, directory, workload, seed, progress)
        report = _report(found, tuned, torch, first, out)
        progress.log(f"{found.name}: {report.chosen}: {tuned.explored.chosen.reason}")
        winner = tuned.explored.chosen
        assert winner.judged is not None
        ship(
            tuned.artifact, winner.point, data.golden.take(slice(0, min(GOLDEN, len(data.golden)))), out=out,
            task=found.task, extras=found.extras, overwrite=overwrite, progress=progress,
            results={"build": report.to_json(), "agreement": winner.judged.agreement, "tune": tuned.to_json()},
        )  # fmt: skip
    return report


def _data(source: Source, given: Samples | None, seed: int) -> Data:
    """Split what there is. Without any samples, generated inputs serve for everything but calibration."""
    if given is None and source.samples:
        parts = {kind: with_empty_cache(Samples.load(path), source.signature) for kind, path in source.samples.items()}
        parts["calibration"].refuse_overlap(parts["scoring"], f"{source.name}: calibration and scoring")
        data = Data(parts["calibration"], parts["scoring"], parts["golden"])
    elif given is None:
        return Data.invented(source.signature, example=source.example, seed=seed)
    else:
        data = Data.of(given, source.signature, name=source.name, seed=seed)
    has_metric = source.metric is not None and data.scoring.labels is not None
    return dataclasses.replace(data, metric=METRICS[source.metric] if has_metric and source.metric else None)


def _baseline(source: Source, data: Data, directory: Path, seed: int, progress: Progress) -> Artifact:
    if source.path is not None:
        return open_artifact(source.path)
    few = data.scoring.take(slice(0, TIMED))
    return export(source, few, out=directory / f"{BASELINE}.onnx", seed=seed, progress=progress)


@contextlib.contextmanager
def _reference(source: Source, baseline: Artifact) -> Iterator[Engine]:
    """What every form is compared with: PyTorch where there is a module, else the ONNX file that was given."""
    engine: Engine
    if source.module is None or baseline.signature is None:
        engine = load(baseline.path, ep="cpu")
    else:
        engine = EagerEngine(source.module, baseline.signature)
    # Export has seen that it repeats itself; each form asks it the same questions.
    remembered = RememberedEngine(engine)
    try:
        yield remembered
    finally:
        remembered.close()


def _verified_baseline(
    source: Source, baseline: Artifact, reference: Engine, data: Data, seed: int, progress: Progress
) -> Agreement:
    """Raise VerificationError unless the float file, which may always ship, answers as the reference does."""
    with load(baseline.path, ep="cpu") as candidate:
        agreement = verification.verify(
            reference, candidate, data.scoring, signature=baseline.signature, metric=data.metric, seed=seed,
            progress=progress,
        )  # fmt: skip
    if agreement.verdict != "verified":
        raise VerificationError(f"{source.name} as exported: {agreement.summary}")
    return agreement


def _torch_row(
    eager: Mapping[str, Any] | None, baseline: Artifact, first: Agreement, data: Data, directory: Path,
    workload: bench.Workload, seed: int, progress: Progress,
) -> Row:  # fmt: skip
    """Eager PyTorch, timed in turn with the float file; a module in memory cannot be, in another process."""
    metric = first.metric.reference if first.metric else None
    if eager is None:
        return Row(TORCH, None, metric, None, None, "reference", "not timed")
    inputs = save_inputs(data.scoring, directory / "timed.npz")
    arguments = {**eager, "threads": machine().cores}
    subjects = [
        subject(Plan().name, baseline.path), bench.Subject(TORCH, "edgeai.exporting.sources:eager", arguments),
    ]  # fmt: skip
    result = bench.measure(subjects, inputs, workload, seed=seed, progress=progress)[TORCH]
    p50, ratio = result.statistics["p50"].value, result.ratio
    return Row(
        TORCH, None, metric, None if p50 is None else int(p50),
        None if ratio is None else (ratio.value, ratio.low, ratio.high), "reference", "eager PyTorch",
    )  # fmt: skip


def _report(source: Source, tuned: Tuned, torch: Row, first: Agreement, out: Path) -> BuildReport:
    chosen = tuned.explored.chosen
    rows = [torch]
    for trial in tuned.explored.trials:
        rows.append(_row(trial, first if trial.name == BASELINE else None))
    verdict = next(row.verdict for row in rows if row.name == chosen.name)
    return BuildReport(source.name, out, chosen.name, chosen.point.provider, source.metric, verdict, tuple(rows))


def _row(trial: Trial, known: Agreement | None) -> Row:
    figures, judged = trial.figures, trial.judged
    agreement = known
    if agreement is None and judged is not None:
        agreement = Agreement.from_json(judged.agreement)
    return Row(
        trial.name,
        figures.size_bytes if figures else None,
        agreement.metric.candidate if agreement and agreement.metric else None,
        figures.p50_ns if figures else None,
        figures.latency if figures else None,
        agreement.verdict if agreement else "not judged" if figures else "not tried",
        trial.reason,
    )
