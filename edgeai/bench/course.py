"""The whole way of some subjects through their processes: start, first answer, blocks in turn, questions, end."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeai.bench.accuracy import Accuracy
from edgeai.bench.capacity import Capacity
from edgeai.bench.energy import Energy
from edgeai.bench.interleave import Recording, interleave
from edgeai.bench.questions import compare_all, find_rates
from edgeai.bench.report import SubjectResult
from edgeai.bench.subject import Phases, Subject, WorkerProcess
from edgeai.bench.workload import Workload
from edgeai.errors import EdgeAIError
from edgeai.progress import Progress


class Course:
    """Runs once. Each of the workload's processes of a subject takes its share of the rounds.

    After Ctrl-C `run` returns what was recorded until then, unless that is nothing. `failures` are crashes on closing.
    """

    def __init__(
        self,
        subjects: Sequence[Subject],
        samples_path: str | Path,
        workload: Workload,
        *,
        thorough: bool,
        seed: int,
        progress: Progress,
    ) -> None:
        self._subjects, self._samples_path, self._workload = subjects, samples_path, workload
        self._thorough, self._seed, self._progress = thorough, seed, progress
        self._recording = Recording(blocks={subject.name: [] for subject in subjects})
        self._starts: dict[str, list[Phases]] = {subject.name: [] for subject in subjects}
        self._last: dict[str, WorkerProcess] = {}
        self._baselines: dict[str, int | None] = {}
        self._peaks: dict[str, int] = {}
        self._capacities: dict[str, Capacity] = {}
        self._accuracies: dict[str, Accuracy] = {}
        self.failures: list[str] = []

    def run(self) -> Recording:
        """Raises what `edgeai.bench.measure` raises."""
        recording = self._recording
        for process in range(self._workload.processes):
            try:
                self._one_process_each(process)
            except KeyboardInterrupt:
                if not recording.order:
                    raise
                recording.interrupted = True
            if recording.interrupted:
                break
        return recording

    def results(self) -> list[SubjectResult]:
        """One for each subject, not yet analysed."""
        return [self._result(subject, self._last[subject.name]) for subject in self._subjects]

    def _one_process_each(self, process: int) -> None:
        with contextlib.ExitStack() as stack:
            workers = {subject.name: stack.enter_context(WorkerProcess(subject)) for subject in self._subjects}
            starts = {}
            with self._progress.task("loading", len(workers)) as advance:
                for name, worker in workers.items():  # one after another: cold starts must not disturb each other
                    starts[name] = worker.build(self._samples_path, self._workload)
                    advance(note=name)
            self._pace(workers)
            part = interleave(workers, self._workload.share(), seed=self._seed + process, progress=self._progress)
            self._add(part, workers, starts, process)
            if not part.interrupted:
                is_last = process == self._workload.processes - 1
                if is_last and self._thorough:
                    self._accuracies = compare_all(workers)
                self._finish(workers, again=is_last and self._thorough)

    def _pace(self, workers: Mapping[str, WorkerProcess]) -> None:
        if self._workload.scenario != "server" or self._workload.rate is not None:
            return
        if not self._capacities:
            self._capacities = find_rates(workers, self._workload, self._progress)
        for name, worker in workers.items():
            rate = self._capacities[name].rate
            assert rate is not None
            worker.pace(rate)

    def _add(
        self, part: Recording, workers: Mapping[str, WorkerProcess], starts: Mapping[str, Phases], process: int
    ) -> None:
        recording = self._recording
        recording.order += part.order
        recording.interrupted = part.interrupted
        for name, worker in workers.items():
            recording.blocks[name] += [dataclasses.replace(block, process=process) for block in part.blocks[name]]
            known = recording.warm_ups.get(name)
            if known is None or (known.stable and not part.warm_ups[name].stable):
                recording.warm_ups[name] = part.warm_ups[name]  # one that did not settle is the one to tell of
            self._starts[name].append(starts[name])
            self._baselines.setdefault(name, worker.baseline_rss_bytes)
            self._peaks[name] = max(self._peaks.get(name, 0), worker.peak_rss_bytes or 0)
            self._last[name] = worker

    def _finish(self, workers: Mapping[str, WorkerProcess], *, again: bool) -> None:
        """Close every engine; a crash that late must be told, but costs no measurement."""
        for name, worker in workers.items():
            try:
                warm_ns = worker.finish(again=again)
                self._starts[name][0] = dataclasses.replace(self._starts[name][0], create_warm_ns=warm_ns)
            except EdgeAIError as error:
                self.failures.append(f"after the measurement: {error}")

    def _result(self, subject: Subject, worker: WorkerProcess) -> SubjectResult:
        name = subject.name
        return SubjectResult(
            name=name,
            phases=self._starts[name][0],
            warm_up=self._recording.warm_ups[name],
            blocks=tuple(self._recording.blocks[name]),
            factory=subject.factory,
            arguments=subject.arguments,
            size_bytes=subject.size_bytes,
            baseline_rss_bytes=self._baselines[name],
            peak_rss_bytes=self._peaks[name],
            batch=subject.batch or self._workload.batch,
            point=subject.point,
            ran=worker.ran,
            energy=Energy(None, worker.energy_source, worker.energy_reason),
            accuracy=self._accuracies.get(name),
            capacity=self._capacities.get(name),
            starts=tuple(self._starts[name]),
        )
