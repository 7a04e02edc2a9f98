"""`edgeai.tune`: from a float model file to the bundle that is best on this machine and keeps its accuracy."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeai import bench, modelfile
from edgeai.agreement import Agreement
from edgeai.artifact import Artifact
from edgeai.caching import with_empty_cache
from edgeai.errors import StorageError, UsageError
from edgeai.machine import machine
from edgeai.modelfile import open_artifact
from edgeai.ort import onnxruntime
from edgeai.progress import SILENT, Progress
from edgeai.runtime.engine import Engine
from edgeai.runtime.huge_pages import page_bytes
from edgeai.runtime.kv_cache import Layout
from edgeai.runtime.loading import load
from edgeai.runtime.remembered import RememberedEngine
from edgeai.samples import Samples
from edgeai.storage import refuse_existing, sha256
from edgeai.tuning.candidates import Point, plans
from edgeai.tuning.choice import TIME, Words
from edgeai.tuning.countdown import Countdown
from edgeai.tuning.data import Data
from edgeai.tuning.exploring import Explored, Judged, Trial, explore
from edgeai.tuning.in_place import is_decoder, with_cache_in_place
from edgeai.tuning.journal import Journal
from edgeai.tuning.judging import find_metric, labelled
from edgeai.tuning.objective import objective_of
from edgeai.tuning.shipping import ship
from edgeai.tuning.space import Space, providers_here
from edgeai.tuning.workbench import Workbench
from edgeai.verification import sample_batch

# Enough rounds for an interval of the ratio; the search takes shares of it for its first rounds.
WORKLOAD = bench.Workload(
    min_iterations=100, min_seconds=2.0, max_seconds=8.0, warmup_min_seconds=0.2, warmup_max_seconds=2.0, rounds=10
)
_OF_TIME = ("latency", "throughput")
_START_SECONDS = 1.5  # of a process, until it is warm

_WORDS = {
    "size": Words("the size", "smaller", "larger", "as small"),
    "memory": Words("the memory", "leaner", "hungrier", "as lean"),
    "cpu": Words("the CPU time", "cheaper", "dearer", "as cheap"),
}


@dataclass(frozen=True)
class Tuned:
    """What a search found, with the file that was chosen. `seconds` is what it took."""

    explored: Explored
    artifact: Artifact
    objective: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """As it goes into the manifest: the choice, every trial, and the names on the frontier."""
        return {
            "objective": self.objective,
            "chosen": self.explored.chosen.name,
            "frontier": list(self.explored.frontier),
            "seconds": round(self.seconds, 1),
            "trials": [trial_json(trial) for trial in self.explored.trials],
        }


@dataclass(frozen=True)
class TuneReport:
    """`trials` start with the plain float session; `chosen` is one of them. `frontier` has the names of those that no
    other beats in accuracy, in the objective and in size at once.
    """

    bundle: Path
    chosen: Trial
    trials: tuple[Trial, ...]
    frontier: tuple[str, ...]
    objective: str
    metric: str | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {
            "bundle": str(self.bundle),
            "chosen": self.chosen.name,
            "objective": self.objective,
            "metric": self.metric,
            "seconds": round(self.seconds, 1),
            "frontier": list(self.frontier),
            "trials": [trial_json(trial) for trial in self.trials],
        }


def tune(
    model: Artifact | str | Path,
    samples: Samples | None = None,
    *,
    out: str | Path,
    max_drop: float = 0.005,
    objective: str = "latency",
    metric: str | None = None,
    output: str | None = None,
    batch: int = 1,
    ep: str | Sequence[str] = "auto",
    space: Space | None = None,
    seconds: float | None = 600.0,
    resume: Path | None = None,
    seed: int = 0,
    workload: bench.Workload | None = None,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> TuneReport:
    """Search forms of the graph, recipes, fusions, providers and session settings, and pack the best point of all.

    `max_drop` (relative) of `metric` on `output` may be lost; without labels the cosine to the float model's answers
    is what must hold. `objective`: latency, throughput, size, memory or cpu; `batch` rows in one run. `ep`: providers
    to try, "auto" for all that run here. After `seconds` no new candidate is begun, but the last measurement,
    which the plain float session is part of, is always made. `resume` is a directory that keeps all that was found
    out. The same seed asks the same questions in the same order.

    Raises UsageError for an unknown objective, metric, output, provider or name in `space`, DataError for samples
    that cannot be split, ExistsError, and what opening the model raises.
    """
    out = Path(out)
    refuse_existing(out, overwrite)
    chosen_space = dataclasses.replace(space or Space(), providers=providers_here(ep))
    objective_of(objective)
    plans(chosen_space.providers, forms=chosen_space.forms, recipes=chosen_space.recipes)
    baseline = model if isinstance(model, Artifact) else open_artifact(model)
    countdown = Countdown(seconds, progress=progress)
    plan = dataclasses.replace(workload or WORKLOAD, batch=batch)
    with load(baseline.path, ep="cpu") as session:
        baseline = dataclasses.replace(baseline, signature=baseline.signature or session.signature)
        reference = RememberedEngine(session)
        data = _data(baseline, samples, reference, metric, output, seed)
        progress.log(f"judged by {data.metric.name if data.metric else 'distance'} on {len(data.scoring)} samples")
        with kept_in(resume) as directory:
            tuned = search(
                baseline, reference, data, directory,
                objective=objective, max_drop=max_drop, space=chosen_space, countdown=countdown, seed=seed,
                workload=plan, progress=progress,
            )  # fmt: skip
            winner = tuned.explored.chosen
            assert winner.judged is not None
            ship(
                tuned.artifact, winner.point, data.golden, out=out, overwrite=overwrite, progress=progress,
                results={"tune": tuned.to_json() | {"seed": seed, "max_drop": max_drop},
                         "agreement": winner.judged.agreement},
            )  # fmt: skip
    found = tuned.explored
    return TuneReport(
        out, found.chosen, found.trials, found.frontier, objective, data.metric.name if data.metric else None,
        tuned.seconds,
    )  # fmt: skip


def search(
    baseline: Artifact,
    reference: Engine,
    data: Data,
    directory: Path,
    *,
    objective: str = "latency",
    max_drop: float = 0.005,
    space: Space,
    countdown: Countdown,
    known: Agreement | None = None,
    seed: int = 0,
    workload: bench.Workload = WORKLOAD,
    progress: Progress = SILENT,
) -> Tuned:
    """The search alone, its files in `directory`. `reference` is what answers are compared with.

    `known` is what was found of `baseline` against it already. Raises UsageError where `space` wants the cache in place
    of what is no decoder.
    """
    spec = objective_of(objective)
    wanted = plans(space.providers, forms=space.forms, recipes=space.recipes)
    signature = reference.signature if baseline.signature is None else baseline.signature
    if space.cache_in_place:
        Layout.of(signature)
    digests = [None if part is None else part.digests() for part in (data.calibration, data.scoring)]
    subject = [
        sha256(baseline.path), digests, objective, max_drop, seed, dataclasses.asdict(workload),
        data.metric.name if data.metric else None, data.output, machine().fingerprint, onnxruntime().__version__,
    ]  # fmt: skip
    # One directory for each subject: what was found out about another model, data or machine is not mixed in.
    own = directory / hashlib.sha256(json.dumps(subject, sort_keys=True).encode()).hexdigest()[:16]
    own.mkdir(parents=True, exist_ok=True)
    laboratory = Workbench(
        baseline, reference, data, own, objective=spec, workload=workload, max_drop=max_drop, countdown=countdown,
        journal=Journal(own / "journal.json", subject), seed=seed, progress=progress,
    )  # fmt: skip
    reserve = 0.0
    if countdown.left() < float("inf"):
        reserve = min(0.5 * countdown.left(), 2 * (space.finalists + 1) * (workload.min_seconds + _START_SECONDS))
    with countdown.shown("tuning"):
        found = explore(
            wanted, laboratory, space, cores=machine().cores, features=machine().features, huge_pages=page_bytes() > 0,
            reserve=reserve, words=_WORDS.get(objective, TIME),
        )  # fmt: skip
        if found.chosen.point == Point():
            judged = laboratory.judge(Point()) if known is None else Judged(0.0, agreement=known.to_json())
            trials = tuple(
                dataclasses.replace(trial, judged=judged) if trial.point == Point() else trial for trial in found.trials
            )
            found = dataclasses.replace(found, chosen=trials[0], trials=trials)
        if space.cache_in_place or (objective in _OF_TIME and is_decoder(signature)):
            found = with_cache_in_place(found, laboratory, signature, asked=space.cache_in_place)
    return Tuned(found, laboratory.artifact(found.chosen.point.plan), objective, countdown.spent)


@contextlib.contextmanager
def kept_in(resume: Path | None) -> Iterator[Path]:
    """The directory to go on in, or one that is gone afterwards."""
    if resume is not None:
        try:
            resume.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"cannot keep a search in {resume}: {error.strerror}", hint="name a directory"
            ) from error
        yield resume.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="edgeai-tune-") as name:
        yield Path(name)


def trial_json(trial: Trial) -> dict[str, Any]:
    """A trial as plain data, without the agreement's details."""
    plan = trial.point.plan
    figures = trial.figures
    return {
        "name": trial.name,
        "form": plan.form,
        "recipe": plan.recipe,
        "provider": trial.point.provider,
        "settings": trial.point.settings.to_json(),
        "loss": trial.judged.loss if trial.judged else None,
        "figures": figures.to_json() if figures else None,
        "reason": trial.reason,
    }


def _data(
    baseline: Artifact, samples: Samples | None, reference: Engine, metric: str | None, output: str | None, seed: int
) -> Data:
    signature = baseline.signature or modelfile.signature_of(modelfile.load(baseline.path))
    scored = next((spec for spec in signature.outputs if output in (None, spec.name)), None)
    if scored is None:
        raise UsageError(f"no output {output}", hint=f"there are {', '.join(signature.output_names)}")
    if samples is None:
        if metric is not None:
            raise UsageError(f"a metric ({metric}) needs samples", hint="-d samples.npz")
        return Data.invented(signature, seed=seed)
    samples = with_empty_cache(samples, signature)
    judge = find_metric(metric, samples.labels, len(scored.shape))
    known = labelled(samples, reference, judge, scored.name, sample_batch(signature))
    data = Data.of(known, signature, name=str(baseline.path), seed=seed)
    return dataclasses.replace(data, metric=judge, output=scored.name)
