"""Points measured together: in turn, each in a process of its own with its own session settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeai import bench
from edgeai.bench.statistics import MIN_BLOCKS
from edgeai.errors import EdgeAIError
from edgeai.machine import machine
from edgeai.progress import SILENT, Progress
from edgeai.runtime.settings import SessionSettings
from edgeai.samples import Samples
from edgeai.tuning.candidates import Point
from edgeai.tuning.measuring import file_bytes
from edgeai.tuning.objective import Figures, Objective, figures

TIMED = 16  # inputs that the runs go round
_MOST_TOGETHER = 8
_PER_PROCESS_BYTES = 150 << 20  # Python, numpy and ONNX Runtime
_PER_WEIGHT_BYTE = 3  # the file's copy, the prepacked one, activations


def save_inputs(samples: Samples, path: Path) -> Path:
    """The first of `samples`, without labels, as the measuring processes read them."""
    timed = samples.take(slice(0, min(TIMED, len(samples))))
    Samples(timed.rows, timed.items, None).save(path, overwrite=True)
    return path


def scaled(workload: bench.Workload, effort: float) -> bench.Workload:
    """A share of the work, or several times as much; a share is less time and fewer runs, in rounds for an interval."""
    if effort == 1:
        return workload
    rounds = min(workload.rounds, 6) if effort < 1 else round(workload.rounds * effort)
    return dataclasses.replace(
        workload,
        rounds=rounds,
        min_seconds=workload.min_seconds * effort,
        max_seconds=max(workload.max_seconds * effort, 0.001),
        min_iterations=max(rounds, round(workload.min_iterations * effort)),
        max_iterations=max(rounds, round(workload.max_iterations * effort)),
        warmup_min_seconds=workload.warmup_min_seconds * min(effort, 1.0),
    )


def measured(
    subjects: Sequence[bench.Subject],
    inputs: Path,
    workload: bench.Workload,
    *,
    seed: int,
    progress: Progress,
    again: bool = True,
) -> bench.Report:
    """A whole measurement; of runs so slow that it cannot tell anything, made `again` with the time that they need.

    Raises KeyboardInterrupt for half a measurement, and what `edgeai.bench.measure` raises.
    """
    report = bench.measure(subjects, inputs, workload, seed=seed, progress=progress)
    if again and not report.interrupted and any(len(one.blocks) < MIN_BLOCKS for one in report.subjects):
        report = bench.measure(subjects, inputs, _roomier(workload, report), seed=seed, progress=progress)
    if report.interrupted:
        raise KeyboardInterrupt
    return report


def _roomier(workload: bench.Workload, report: bench.Report) -> bench.Workload:
    """As `workload`, with time for as many blocks as an interval needs, where one run takes as long as in `report`."""
    slowest = max(int(result.samples_ns.max()) for result in report.subjects) / 1e9
    return dataclasses.replace(
        workload,
        rounds=max(workload.rounds, MIN_BLOCKS),
        max_iterations=max(workload.max_iterations, MIN_BLOCKS),
        max_seconds=max(workload.max_seconds, 2 * MIN_BLOCKS * slowest),
    )


def most_together(largest_bytes: int) -> int:
    """How many processes that hold a model of this size fit into half of the memory, beside the baseline."""
    memory = machine().memory_bytes
    if memory is None:
        return 2
    return max(1, min(_MOST_TOGETHER, memory // 2 // (_PER_PROCESS_BYTES + _PER_WEIGHT_BYTE * largest_bytes) - 1))


def measure_points(
    baseline: Point,
    points: Sequence[Point],
    paths: Mapping[str, Path],
    inputs: Path,
    objective: Objective,
    workload: bench.Workload,
    *,
    effort: float = 1.0,
    seed: int = 0,
    progress: Progress = SILENT,
) -> dict[str, Figures]:
    """Figures by name, the baseline's too. `paths`: the file of each plan, by its name.

    A point whose process dies, or whose session does not open, has failed; the others are then measured without it.
    A whole measurement of runs so slow that it cannot tell anything is made again, with the time that they need.
    Raises BenchmarkError where the baseline itself cannot be measured.
    """
    plan = scaled(workload, effort)

    def together(some: Sequence[Point]) -> dict[str, Figures]:
        subjects = [_as_it_runs(point, paths[point.plan.name]) for point in (baseline, *some)]
        report = measured(subjects, inputs, plan, seed=seed, progress=progress, again=effort >= 1)
        return figures(report, objective, effort=effort, seed=seed)

    others = [point for point in points if point.name != baseline.name]
    try:
        return together(others)
    except EdgeAIError:
        if not others:
            raise
    found: dict[str, Figures] = {}
    for point in others:  # which of them it was
        try:
            found = {**together([point]), **found}
        except EdgeAIError as error:
            found[point.name] = Figures(effort=effort, failed=error.message)
    return found if baseline.name in found else {**together([]), **found}


def subject(name: str, path: Path, *, provider: str = "cpu", settings: SessionSettings | None = None) -> bench.Subject:
    """A model file as `edgeai.bench` measures it."""
    arguments: dict[str, object] = {"path": str(path.resolve()), "ep": provider}
    if settings is not None:
        arguments["settings"] = settings.to_json()
    return bench.Subject(
        name, "edgeai.runtime.loading:load", arguments, size_bytes=file_bytes(path), preload="edgeai.ort:onnxruntime"
    )


def _as_it_runs(point: Point, path: Path) -> bench.Subject:
    return subject(point.name, path, provider=point.provider, settings=point.settings)
