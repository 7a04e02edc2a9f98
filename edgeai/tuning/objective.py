"""What tuning makes small, and what one measurement says about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgeai.bench import Report, SubjectResult
from edgeai.bench.statistics import MIN_BLOCKS, ratio_of_medians
from edgeai.errors import UsageError
from edgeai.tuning.halving import Cost

_NS_PER_S = 1_000_000_000

# One list of values for each block: what an interval is drawn from.
_Blocks = list[list[int]]


@dataclass(frozen=True)
class Objective:
    """`blocks` are the values of a subject, smaller is better, one list for each of its blocks."""

    name: str
    about: str
    blocks: Callable[[SubjectResult], _Blocks]


def _per_run(values_ns: Callable[[Any], float]) -> Callable[[SubjectResult], _Blocks]:
    """One value a block: its mean over the runs."""
    return lambda result: [[round(values_ns(block) / len(block.samples_ns))] for block in result.blocks]


def _once(value: Callable[[SubjectResult], int | None]) -> Callable[[SubjectResult], _Blocks]:
    """What is known of the whole run alone: its interval has no width."""
    return lambda result: [[value(result) or 1]] * len(result.blocks)


def _memory(result: SubjectResult) -> int | None:
    if result.peak_rss_bytes is None or result.baseline_rss_bytes is None:
        return None
    return max(1, result.peak_rss_bytes - result.baseline_rss_bytes)


OBJECTIVES: Mapping[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective("latency", "median time of one run", lambda r: [list(block.samples_ns) for block in r.blocks]),
        Objective("throughput", "mean time of one run, its outliers too", _per_run(lambda b: sum(b.samples_ns))),
        Objective("size", "bytes of the model's files", _once(lambda result: result.size_bytes)),
        Objective("memory", "peak resident memory that the model adds", _once(_memory)),
        Objective("cpu", "CPU seconds of one run, over all threads", _per_run(lambda block: block.cpu_ns)),
    )
}


@dataclass(frozen=True)
class Figures:
    """One point in one interleaved run. `cost` is the objective's, `latency` the median time's, over the baseline's,
    with 95 % intervals; both None for the baseline itself, and for a point that `failed` for that reason.
    `is_resolved` is False where so few blocks were measured that the intervals mean nothing.
    """

    p50_ns: int | None = None
    cost: Cost | None = None
    latency: Cost | None = None
    size_bytes: int | None = None
    memory_bytes: int | None = None
    cpu_seconds: float | None = None
    runs_per_second: float | None = None
    effort: float = 1.0
    is_resolved: bool = True
    failed: str = ""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Figures:
        """The inverse of `to_json`."""
        costs = {key: tuple(data[key]) if data[key] else None for key in ("cost", "latency")}
        return cls(**{**data, **costs})


def objective_of(name: str) -> Objective:
    """Raises UsageError for an unknown name."""
    if name not in OBJECTIVES:
        raise UsageError(f"there is no objective {name!r}", hint=f"use {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]


def figures(report: Report, objective: Objective, *, effort: float, seed: int = 0) -> dict[str, Figures]:
    """What `report` says of each of its subjects; the first is the baseline."""
    reference = report.subjects[0]
    found = {}
    for result in report.subjects:
        ratio = result.ratio
        latency = None if ratio is None else (ratio.value, ratio.low, ratio.high)
        cost = latency
        if result is not reference and objective.name != "latency":
            cost = _cost(objective, result, reference, seed)
        samples = result.samples_ns
        found[result.name] = Figures(
            p50_ns=int(sorted(samples)[(len(samples) - 1) // 2]) if len(samples) else None,
            cost=cost,
            latency=latency,
            size_bytes=result.size_bytes,
            memory_bytes=_memory(result),
            cpu_seconds=result.cpu_seconds_per_inference,
            runs_per_second=len(samples) * _NS_PER_S / int(samples.sum()) if len(samples) else None,
            effort=effort,
            is_resolved=ratio is None or ratio.blocks >= MIN_BLOCKS,
        )
    return found


def _cost(objective: Objective, result: SubjectResult, reference: SubjectResult, seed: int) -> Cost | None:
    mine, theirs = objective.blocks(result), objective.blocks(reference)
    rounds = min(len(mine), len(theirs))
    if not rounds:
        return None
    ratio = ratio_of_medians(mine[:rounds], theirs[:rounds], processes=result.processes[:rounds], seed=seed)
    return ratio.value, ratio.low, ratio.high
