"""What is asked of running workers besides their latency: the rate they can serve, and what they answer."""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeai.bench.accuracy import Accuracy, compare_answers
from edgeai.bench.arrivals import Surrender
from edgeai.bench.capacity import Capacity, search_rate
from edgeai.bench.statistics import allowed_over, minimum_samples
from edgeai.bench.subject import WorkerProcess
from edgeai.bench.workload import NS, Workload
from edgeai.errors import BenchmarkError, EdgeAIError
from edgeai.progress import Progress
from edgeai.samples import Samples

_ANSWERS = 8


def find_rates(workers: Mapping[str, WorkerProcess], workload: Workload, progress: Progress) -> dict[str, Capacity]:
    """Search each worker's highest rate within the bound, one worker after another, and leave it at that pace.

    Raises BenchmarkError for one that keeps the bound at no rate, or is too slow to show it in `max_seconds`.
    """
    assert workload.latency_bound_ms is not None
    bound_ns = int(workload.latency_bound_ms * 1e6)
    found = {}
    with progress.task("searching the highest rate", len(workers)) as advance:
        for name, worker in workers.items():
            ceiling = workload.concurrency * NS / max(worker.warm_up().median_ns, 1)
            capacity = search_rate(
                functools.partial(_trial, worker, workload, bound_ns),
                ceiling=ceiling,
                bound_ns=bound_ns,
                percent=workload.tail_percent,
            )
            if capacity.rate is None:
                raise _no_rate(name, capacity, workload, ceiling)
            worker.pace(capacity.rate)
            found[name] = capacity
            advance(note=f"{name} {capacity.rate:.4g}/s")
    return found


def _no_rate(name: str, capacity: Capacity, workload: Workload, ceiling: float) -> BenchmarkError:
    last, percent = capacity.trials[-1], workload.tail_percent
    if not any(sample > capacity.bound_ns for sample in last.samples_ns):
        return BenchmarkError(
            f"subject {name!r}: at {last.rate:.3g} queries a second {len(last.samples_ns)} arrive within max_seconds "
            f"{workload.max_seconds:g}, too few to judge p{percent}",
            hint="give it more max_seconds, or a lower tail_percent",
        )
    return BenchmarkError(
        f"subject {name!r}: p{percent} is above {workload.latency_bound_ms:g} ms at every "
        f"rate from {last.rate:.3g} to {ceiling:.3g} queries a second",
        hint="give it a longer latency_bound_ms",
    )


def _trial(worker: WorkerProcess, workload: Workload, bound_ns: int, rate: float) -> Sequence[int]:
    seconds = max(workload.min_seconds, 0.0)
    runs = max(minimum_samples(workload.tail_percent), math.ceil(rate * seconds))
    runs = min(runs, max(workload.max_iterations, minimum_samples(workload.tail_percent)))
    allowed = allowed_over(runs, workload.tail_percent)
    assert allowed is not None
    worker.pace(rate, surrender=Surrender(bound_ns, allowed))
    return worker.block(runs, budget_ns=int(workload.max_seconds * NS)).samples_ns


def compare_all(workers: Mapping[str, WorkerProcess]) -> dict[str, Accuracy]:
    """Every worker's answers against those of the first of its point; what fails is told as a reason."""
    found: dict[str, Accuracy] = {}
    references: dict[str, tuple[str, Samples]] = {}
    with tempfile.TemporaryDirectory(prefix="edgeai-answers-") as directory:
        for index, (name, worker) in enumerate(workers.items()):
            point = worker.subject.point
            path = Path(directory) / f"{index}.npz"
            try:
                worker.answer(path, count=_ANSWERS)
                answers = Samples.load(path)
            except EdgeAIError as error:  # a worker that died is told again when it is closed
                found[name] = Accuracy(references[point][0] if point in references else name, 0, reason=error.message)
                continue
            path.unlink()
            if point not in references:
                references[point] = (name, answers)
            else:
                found[name] = compare_answers(references[point][1], answers, name=references[point][0])
    return found
