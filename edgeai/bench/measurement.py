"""From engines to a report: several, each in its own process, or one in this process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from edgeai.bench.interleave import Recording, interleave
from edgeai.bench.loop import Clock, Loop
from edgeai.bench.noise import Noise, observe
from edgeai.bench.report import Report, SubjectResult, doubts, shortfall
from edgeai.bench.subject import Phases, Subject, WorkerProcess
from edgeai.bench.workload import Workload
from edgeai.errors import EdgeAIError, UsageError
from edgeai.machine import machine
from edgeai.progress import SILENT, Progress
from edgeai.runtime.engine import Engine
from edgeai.samples import Samples


def measure(
    subjects: Sequence[Subject],
    samples_path: str | Path,
    workload: Workload,
    *,
    progress: Progress = SILENT,
    seed: int = 0,
) -> Report:
    """Compare subjects, each in its own process; with one subject this is the plain benchmark.

    The first subject is what the others are compared with. Threads are what each factory's arguments say: give all
    the same. Raises UsageError for subjects that cannot be told apart, DataError for unreadable samples,
    BenchmarkError (naming the subject) if a process dies, and whatever EdgeAIError a factory raises.
    After Ctrl-C the report holds what was measured until then and says so.
    """
    names = [subject.name for subject in subjects]
    if not names or len(set(names)) != len(names):
        raise UsageError(f"measure: needs at least one subject, and different names; got {names}")
    inputs = len(workload.feeds(Samples.load(samples_path)))
    begin = _Begin.now()
    with contextlib.ExitStack() as stack:
        workers = {subject.name: stack.enter_context(WorkerProcess(subject)) for subject in subjects}
        phases = {}
        with progress.task("loading", len(workers)) as advance:
            for name, worker in workers.items():  # one after another: cold starts must not disturb each other
                phases[name] = worker.build(samples_path, workload)
                advance(note=name)
        recording = interleave(workers, workload, seed=seed, progress=progress)
        failures = () if recording.interrupted else _finish(workers.values())
    results = [
        SubjectResult(
            name=subject.name,
            phases=phases[subject.name],
            warm_up=recording.warm_ups[subject.name],
            blocks=tuple(recording.blocks[subject.name]),
            factory=subject.factory,
            arguments=subject.arguments,
            size_bytes=subject.size_bytes,
            baseline_rss_bytes=workers[subject.name].baseline_rss_bytes,
            peak_rss_bytes=workers[subject.name].peak_rss_bytes,
        )
        for subject in subjects
    ]
    return _report(results, workload, recording, begin=begin, inputs=inputs, seed=seed, warnings=failures)


def benchmark(
    engine: Engine,
    workload: Workload,
    samples: Samples,
    *,
    name: str = "engine",
    progress: Progress = SILENT,
    seed: int = 0,
    clock: Clock = time.perf_counter_ns,
) -> Report:
    """Measure an engine that is already here, in this process.

    Build time and memory cannot be told apart from what else this process did: use `measure` for those. Raises
    InputError if the samples do not fit the engine. After Ctrl-C the report holds what was measured until then.
    """
    feeds = workload.feeds(samples)
    begin = _Begin.now()
    loop = Loop(engine, feeds, workload=workload, clock=clock)
    phases = Phases(None, None, loop.first())
    recording = interleave({name: loop}, workload, seed=seed, progress=progress)
    result = SubjectResult(name, phases, recording.warm_ups[name], tuple(recording.blocks[name]))
    return _report([result], workload, recording, begin=begin, inputs=len(feeds), seed=seed)


@dataclass(frozen=True)
class _Begin:
    at: str
    noise: Noise

    @classmethod
    def now(cls) -> _Begin:
        return cls(_timestamp(), observe())


def _timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _finish(workers: Iterable[WorkerProcess]) -> tuple[str, ...]:
    """Close every engine; a crash that late must be told, but costs no measurement."""
    failures = []
    for worker in workers:
        try:
            worker.finish()
        except EdgeAIError as error:
            failures.append(f"after the measurement: {error}")
    return tuple(failures)


def _report(
    results: Sequence[SubjectResult],
    workload: Workload,
    recording: Recording,
    *,
    begin: _Begin,
    inputs: int,
    seed: int,
    warnings: tuple[str, ...] = (),
) -> Report:
    after, here = observe(), machine()
    first = results[0]
    return Report(
        workload=workload,
        subjects=tuple(r.analysed(None if r is first else first, workload, seed=seed) for r in results),
        order=tuple(recording.order),
        machine=here,
        noise_before=begin.noise,
        noise_after=after,
        seed=seed,
        started_at=begin.at,
        finished_at=_timestamp(),
        interrupted=recording.interrupted,
        short=shortfall(results),
        warnings=doubts(results, inputs=inputs, before=begin.noise, cores=here.cores) + warnings,
    )
