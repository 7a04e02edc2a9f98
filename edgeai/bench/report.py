"""What a benchmark found: raw samples, what they say, and everything needed to doubt it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgeai.bench.loop import Block, WarmUp
from edgeai.bench.noise import Noise
from edgeai.bench.statistics import (
    STATISTICS,
    Estimate,
    Ratio,
    minimum_samples,
    ratio_of_medians,
    statistics,
    verdict,
)
from edgeai.bench.subject import Phases
from edgeai.bench.workload import NS, Workload
from edgeai.errors import DataError, UsageError
from edgeai.machine import Machine
from edgeai.storage import atomic_text

SCHEMA = 1
# MLPerf Inference, single stream: 600 s (loadgen's mlperf.conf), and enough queries to tell p90.
_MLPERF_SECONDS = 600
_MLPERF_PERCENT = 90


@dataclass(frozen=True)
class SubjectResult:
    """What was measured of one subject, and what follows from it.

    Raw: `blocks` holds every sample in ns; the first inference and warm-up are not in it. RSS is the process's, so
    it is None for an engine in this process. Derived: `statistics`; `cpu_seconds_per_inference`, of all threads;
    `ratio` and `verdict` against the report's first subject (None and "" for that one itself).
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

    @property
    def samples_ns(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """All samples (n,) int64, in the order they were taken."""
        return np.array([sample for block in self.blocks for sample in block.samples_ns], dtype=np.int64)

    def analysed(self, reference: SubjectResult | None, workload: Workload, *, seed: int) -> SubjectResult:
        """The same result with its derived fields filled; `reference` is None for the first subject."""
        samples = self.samples_ns
        ratio, word = None, ""
        if reference is not None:
            rounds = min(len(self.blocks), len(reference.blocks))
            word = verdict(None, workload.noise_floor)
            if rounds:
                mine, theirs = ([block.samples_ns for block in r.blocks[:rounds]] for r in (self, reference))
                ratio = ratio_of_medians(mine, theirs, seed=seed)
                word = verdict(ratio, workload.noise_floor)
        cpu_ns = sum(block.cpu_ns for block in self.blocks)
        return dataclasses.replace(
            self,
            statistics=statistics(samples),
            cpu_seconds_per_inference=cpu_ns / NS / len(samples) if len(samples) else None,
            ratio=ratio,
            verdict=word,
        )


@dataclass(frozen=True)
class Report:
    """`order` names the subject of each block as they were taken. Times are ISO 8601, UTC.

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
            return cls(
                **data
                | {
                    "workload": Workload(**data["workload"]),
                    "subjects": tuple(map(_subject, data["subjects"])),
                    "order": tuple(data["order"]),
                    "machine": Machine(**data["machine"] | {"features": tuple(data["machine"]["features"])}),
                    "noise_before": Noise(**data["noise_before"]),
                    "noise_after": Noise(**data["noise_after"]),
                    "warnings": tuple(data["warnings"]),
                }
            )
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


def _subject(data: Mapping[str, Any]) -> SubjectResult:
    return SubjectResult(
        **{
            **data,
            "phases": Phases(**data["phases"]),
            "warm_up": WarmUp(**data["warm_up"]),
            "blocks": tuple(Block(tuple(block["samples_ns"]), block["cpu_ns"]) for block in data["blocks"]),
            "statistics": {name: Estimate(**row) for name, row in data["statistics"].items()},
            "ratio": Ratio(**data["ratio"]) if data["ratio"] else None,
        }
    )


def shortfall(results: Sequence[SubjectResult]) -> str:
    """What MLPerf's minimum for the single stream still asks for; empty if nothing."""
    seconds = min(int(result.samples_ns.sum()) for result in results) / NS
    count = min(len(result.samples_ns) for result in results)
    if seconds >= _MLPERF_SECONDS and count >= minimum_samples(_MLPERF_PERCENT):
        return ""
    return (
        f"{seconds:.3g} s and {count} runs are measured; "
        f"MLPerf asks for {_MLPERF_SECONDS} s and {minimum_samples(_MLPERF_PERCENT)} runs"
    )


def doubts(results: Sequence[SubjectResult], *, inputs: int, before: Noise, cores: int) -> tuple[str, ...]:
    """Reasons to read the figures with care, one sentence each."""
    found = [
        f"{result.name}: still not steady when the warm-up's time was over; give it more (warmup_max_seconds)"
        for result in results
        if not result.warm_up.stable
    ]
    if inputs == 1:
        found.append("every run had the same input, which flatters caches; give several different samples")
    if before.load_1min is not None and before.load_1min > cores / 2:
        found.append(f"the machine was busy before the start (load {before.load_1min:.1f} on {cores} cores)")
    return tuple(found)


def rows(report: Report) -> list[list[str]]:
    """The table as text cells, a header first: one row a subject, one column a statistic. Latencies in ms."""
    scale = {"ns": (1e-6, "ms")}
    units = {name: scale.get(statistic.unit, (1.0, statistic.unit)) for name, statistic in STATISTICS.items()}
    header = ["subject", "runs", *(f"{name} {unit}" for name, (_, unit) in units.items())]
    header += ["first ms", "CPU ms/run", "peak MiB", "size MiB", "ratio", "verdict"]
    table = [header]
    for result in report.subjects:
        cells = [result.name, str(len(result.samples_ns))]
        cells += [_cell(result.statistics[name].value, factor) for name, (factor, _) in units.items()]
        cells += [
            _cell(result.phases.first_inference_ns, 1e-6),
            _cell(result.cpu_seconds_per_inference, 1e3),
            _cell(result.peak_rss_bytes, 1 / 2**20),
            _cell(result.size_bytes, 1 / 2**20),
            _interval(result.ratio) if result.ratio else "-",
            result.verdict or "-",
        ]
        table.append(cells)
    return table


def _cell(value: float | None, factor: float) -> str:
    return "-" if value is None else f"{value * factor:.4g}"


def _interval(ratio: Ratio) -> str:
    return f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"
