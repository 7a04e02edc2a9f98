"""From engines to a report: several, each in its own processes, or one in this process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from edgeai.bench.arrivals import Clock
from edgeai.bench.course import Course
from edgeai.bench.energy import Energy, find_meter
from edgeai.bench.interleave import Recording, interleave
from edgeai.bench.loop import Loop, overhead_ns
from edgeai.bench.noise import Noise, judge, observe
from edgeai.bench.report import Report, SubjectResult, doubts, shortfall
from edgeai.bench.subject import Phases, Subject
from edgeai.bench.workload import NS, Workload
from edgeai.errors import UsageError
from edgeai.machine import machine
from edgeai.progress import SILENT, Progress
from edgeai.runtime.engine import Engine
from edgeai.samples import Samples


def measure(
    subjects: Sequence[Subject],
    samples_path: str | Path,
    workload: Workload,
    *,
    thorough: bool = False,
    progress: Progress = SILENT,
    seed: int = 0,
) -> Report:
    """Compare subjects, each in its own process; with one subject this is the plain benchmark.

    The first subject (of each point of a sweep) is what the others are compared with. Threads are what each factory's
    arguments say: give all the same. `thorough` also compares the answers and makes every engine a second time.
    Raises UsageError for subjects that cannot be told apart, DataError for unreadable samples, BenchmarkError (naming
    the subject) if a process dies, and whatever EdgeAIError a factory raises.
    After Ctrl-C the report holds what was measured until then and says so.
    """
    names = [subject.name for subject in subjects]
    if not names or len(set(names)) != len(names):
        raise UsageError(f"measure: needs at least one subject, and different names; got {names}")
    places = {(s.samples_path or str(samples_path), s.batch or workload.batch) for s in subjects}
    inputs = min(len(replace(workload, batch=batch).feeds(Samples.load(path))) for path, batch in places)
    begin = _Begin.now()
    course = Course(subjects, samples_path, workload, thorough=thorough, seed=seed, progress=progress)
    recording = course.run()
    return _report(
        course.results(), workload, recording, begin=begin, inputs=inputs, seed=seed, warnings=tuple(course.failures)
    )


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

    Build time and memory cannot be told apart from what else this process did: use `measure` for those, and for the
    server scenario without a rate (UsageError). Raises InputError if the samples do not fit the engine.
    After Ctrl-C the report holds what was measured until then.
    """
    if workload.scenario == "server" and workload.rate is None:
        raise UsageError(
            "benchmark: the search for a rate needs a process of its own", hint="use measure, or give a rate"
        )
    feeds = workload.feeds(samples)
    begin = _Begin.now()
    meter, reason = find_meter(tuple(getattr(engine, "providers", ())))
    energy = Energy(None, meter.source if meter else "", reason)
    loop = Loop(engine, feeds, workload=workload, clock=clock, meter=meter)
    phases = Phases(None, None, loop.first())
    recording = interleave({name: loop}, workload, seed=seed, progress=progress)
    result = SubjectResult(
        name, phases, recording.warm_ups[name], tuple(recording.blocks[name]), batch=workload.batch, energy=energy
    )
    return _report([result], workload, recording, begin=begin, inputs=len(feeds), seed=seed)


@dataclass(frozen=True)
class _Begin:
    at: str
    ns: int
    noise: Noise

    @classmethod
    def now(cls) -> _Begin:
        return cls(_timestamp(), time.perf_counter_ns(), observe())


def _timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


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
    seconds = (time.perf_counter_ns() - begin.ns) / NS
    disturbance = judge(begin.noise, after, seconds=seconds, cores=here.cores)
    first: dict[str, SubjectResult] = {}
    for result in results:
        first.setdefault(result.point, result)
    return Report(
        workload=workload,
        subjects=tuple(
            r.analysed(None if r is first[r.point] else first[r.point], workload, seed=seed) for r in results
        ),
        order=tuple(recording.order),
        machine=here,
        noise_before=begin.noise,
        noise_after=after,
        seed=seed,
        started_at=begin.at,
        finished_at=_timestamp(),
        interrupted=recording.interrupted,
        short=shortfall(results, workload),
        warnings=doubts(results, workload, inputs=inputs, disturbance=disturbance) + warnings,
        overhead_ns=overhead_ns(),
        disturbance=disturbance,
    )
