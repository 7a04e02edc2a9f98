"""What a benchmark found: raw samples, what they say, and everything needed to doubt it."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgeai.bench.accuracy import Accuracy
from edgeai.bench.capacity import Capacity
from edgeai.bench.decoding import decoded
from edgeai.bench.energy import Energy
from edgeai.bench.limits import Ceilings, Roofline
from edgeai.bench.loop import Block, WarmUp
from edgeai.bench.noise import QUIET, Disturbance, Noise
from edgeai.bench.statistics import (
    MIN_BLOCKS,
    Estimate,
    Ratio,
    early_stopping,
    minimum_samples,
    ratio_of_medians,
    statistics,
    verdict,
)
from edgeai.bench.subject import Phases, Ran
from edgeai.bench.workload import NS, Workload
from edgeai.errors import DataError, UsageError
from edgeai.machine import Machine
from edgeai.storage import atomic_text

SCHEMA = 2
# Which figure MLPerf Inference takes from a scenario, and the least it asks for (inference_rules.adoc).
_MLPERF_SECONDS = 600
_MLPERF_PERCENT = {"single": 90, "multi": 99, "server": 99}
_MLPERF_OFFLINE_SAMPLES = 24_576
# Medians of blocks that lie further apart are not one speed and its noise.
_ONE_SPEED = 1.1


@dataclass(frozen=True)
class SubjectResult:
    """What was measured of one subject, and what follows from it.

    Raw: `blocks` holds every sample in ns; the first inference and warm-up are not in it. RSS is the process's, so
    it is None for an engine in this process. Derived: `statistics`, of runs (in scenario multi a run is a query of
    several inferences), with MLPerf's `early_stopping` estimate beside them; `samples_per_second` counts rows;
    `cpu_seconds_per_inference`, of all threads; `ratio` and `verdict` against the first subject of the same `point`
    of a sweep (None and "" for that one itself): of medians, offline and with several callers of the time a run takes.
    `starts` are the cold starts of all processes, `phases` the first. `roofline` is filled by whoever knows the
    model's graph.
    """

    name: str
    phases: Phases
    warm_up: WarmUp
    blocks: tuple[Block, ...]
    factory: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    size_bytes: int | None = None
    baseline_rss_bytes: int | None = None
    peak_rss_bytes: int | None = None
    statistics: Mapping[str, Estimate] = field(default_factory=dict)
    cpu_seconds_per_inference: float | None = None
    ratio: Ratio | None = None
    verdict: str = ""
    batch: int = 1
    point: str = ""
    samples_per_second: float | None = None
    early_stopping: Estimate | None = None
    ran: Ran = field(default_factory=Ran)
    energy: Energy = field(default_factory=lambda: Energy(None, reason="not measured"))
    accuracy: Accuracy | None = None
    capacity: Capacity | None = None
    roofline: Roofline | None = None
    starts: tuple[Phases, ...] = ()

    @property
    def samples_ns(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """All samples (n,) int64, in the order they were taken."""
        return np.array([sample for block in self.blocks for sample in block.samples_ns], dtype=np.int64)

    @property
    def duration_ns(self) -> int:
        """How long the blocks took, all together."""
        return sum(block.duration_ns for block in self.blocks)

    @property
    def processes(self) -> list[int]:
        """For each block the process that it was measured in."""
        return [block.process for block in self.blocks]

    def compared_blocks(self, workload: Workload) -> list[tuple[int, ...]]:
        """What a ratio is taken of: latencies, or one mean time a run for each block where runs overlap."""
        if workload.scenario == "offline" or (workload.scenario == "single" and workload.concurrency > 1):
            return [(block.duration_ns // len(block.samples_ns),) for block in self.blocks]
        return [block.samples_ns for block in self.blocks]

    def analysed(self, reference: SubjectResult | None, workload: Workload, *, seed: int) -> SubjectResult:
        """The same result with its derived fields filled; `reference` is None for the first subject."""
        samples = self.samples_ns
        ratio, word = None, ""
        if reference is not None:
            pairs = _pairs(self.blocks, reference.blocks)
            if pairs and not self.capacity:  # latencies at two rates say nothing about each other
                mine, theirs = (r.compared_blocks(workload) for r in (self, reference))
                ratio = ratio_of_medians(
                    [mine[i] for i, _ in pairs], [theirs[j] for _, j in pairs],
                    processes=[self.blocks[i].process for i, _ in pairs], seed=seed,
                )  # fmt: skip
            word = verdict(ratio, workload.noise_floor)
        inferences = len(samples) * workload.inferences
        percent = _MLPERF_PERCENT.get(workload.scenario)
        return dataclasses.replace(
            self,
            statistics=statistics(samples, duration_ns=self.duration_ns),
            early_stopping=early_stopping(samples, percent) if percent else None,
            samples_per_second=inferences * self.batch * NS / max(self.duration_ns, 1) if inferences else None,
            cpu_seconds_per_inference=sum(block.cpu_ns for block in self.blocks) / NS / inferences
            if inferences
            else None,
            energy=_energy(self, inferences),
            ratio=ratio,
            verdict=word,
        )


def _pairs(mine: Sequence[Block], theirs: Sequence[Block]) -> list[tuple[int, int]]:
    """Indices of the blocks of one round: a subject that needs fewer rounds has fewer blocks in every process."""
    first, second = _rounds(mine), _rounds(theirs)
    return [(index, second[key]) for key, index in first.items() if key in second]


def _rounds(blocks: Sequence[Block]) -> dict[tuple[int, int], int]:
    """(process, round in it) of each block, to its index."""
    taken: Counter[int] = Counter()
    places = {}
    for index, block in enumerate(blocks):
        places[block.process, taken[block.process]] = index
        taken[block.process] += 1
    return places


def _energy(result: SubjectResult, inferences: int) -> Energy:
    counted = [block.energy_uj for block in result.blocks]
    if not inferences or not result.energy.source or None in counted:
        reason = result.energy.reason or ("the counter stopped answering" if inferences else "no samples")
        return dataclasses.replace(result.energy, joules_per_inference=None, reason=reason)
    joules = sum(uj for uj in counted if uj is not None) / 1e6
    return dataclasses.replace(result.energy, joules_per_inference=joules / inferences, reason="")


@dataclass(frozen=True)
class Report:
    """`order` names the subject of each block as they were taken. Times are ISO 8601, UTC.

    `overhead_ns` is what the timing loop itself adds to every sample. `disturbance` is the verdict on `noise_before`
    and `noise_after`. `schema` is the version of `report.schema.json`, which ships beside this module.

    `interrupted`: Ctrl-C came, the blocks until then are complete. `short` is empty if every subject ran as long as
    MLPerf asks for, otherwise it says what is missing: good for a comparison, not for a published figure.
    """

    workload: Workload
    subjects: tuple[SubjectResult, ...]
    order: tuple[str, ...]
    machine: Machine
    noise_before: Noise
    noise_after: Noise
    seed: int
    started_at: str
    finished_at: str
    interrupted: bool
    short: str
    warnings: tuple[str, ...]
    overhead_ns: int = 0
    disturbance: Disturbance = field(default_factory=lambda: Disturbance(QUIET, ()))
    ceilings: Ceilings | None = None
    schema: int = SCHEMA

    def __getitem__(self, name: str) -> SubjectResult:
        """The subject of this name. Raises KeyError."""
        return {subject.name: subject for subject in self.subjects}[name]

    def to_json(self) -> str:
        """Everything, as JSON text; `from_json` gives an equal report."""
        return json.dumps(dataclasses.asdict(self), allow_nan=False, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str = "report") -> Report:
        """Raises DataError naming `where` if the text is not a report of this schema."""
        try:
            data = json.loads(text)
            if data["schema"] != SCHEMA:
                raise DataError(f"{where}: schema {data['schema']}, this edgeai reads {SCHEMA}", hint="measure again")
            return decoded(cls, data)
        except (ValueError, TypeError, KeyError, AttributeError, UsageError) as error:
            raise DataError(f"{where}: not a benchmark report ({type(error).__name__}: {error})") from error

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the JSON, whole or not at all. Raises ExistsError, StorageError."""
        atomic_text(path, self.to_json(), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Raises DataError naming the file."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read ({error})") from error
        return cls.from_json(text, where=str(path))


def shortfall(results: Sequence[SubjectResult], workload: Workload) -> str:
    """What MLPerf's minimum for the scenario still asks for; empty if nothing."""
    seconds = min(result.duration_ns for result in results) / NS
    count = min(len(result.samples_ns) for result in results)
    percent = _MLPERF_PERCENT.get(workload.scenario)
    needed = minimum_samples(percent) if percent else _MLPERF_OFFLINE_SAMPLES // workload.batch
    if seconds >= _MLPERF_SECONDS and count >= needed:
        return ""
    return f"{seconds:.3g} s and {count} runs are measured; MLPerf asks for {_MLPERF_SECONDS} s and {needed} runs"


def changes_of_speed(results: Sequence[SubjectResult], workload: Workload) -> list[str]:
    """Who did not run at one speed, a sentence each; a server's latencies depend on when the queries came."""
    found = []
    for result in results:
        if workload.scenario == "server" or len(result.blocks) < MIN_BLOCKS:
            continue
        medians = [float(np.median(times)) / 1e6 for times in result.compared_blocks(workload)]
        fast, slow = np.quantile(medians, (0.1, 0.9), method="nearest")
        if slow > _ONE_SPEED * fast:
            found.append(
                f"{result.name}: its speed changed while it was measured, from {fast:.3g} to {slow:.3g} ms a run from "
                "one block to another; compare it only with what ran in turn with it"
            )
    return found


def doubts(
    results: Sequence[SubjectResult], workload: Workload, *, inputs: int, disturbance: Disturbance
) -> tuple[str, ...]:
    """Reasons to read the figures with care, one sentence each."""
    found = [
        f"{result.name}: still not steady when the warm-up's time was over; give it more (warmup_max_seconds)"
        for result in results
        if not result.warm_up.stable
    ]
    found += changes_of_speed(results, workload)
    found += [f"{result.name}: {sentence}" for result in results for sentence in result.ran.passed_over]
    if inputs == 1:
        found.append("every run had the same input, which flatters caches; give several different samples")
    found += [f"the machine was {disturbance.verdict}: {sentence}" for sentence in disturbance.evidence]
    return tuple(found)
