"""What is run, how often and for how long: the question that a report answers."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass

import numpy as np

from edgeai.errors import UsageError
from edgeai.samples import Samples
from edgeai.spec import Feed

SCENARIOS = ("single", "multi", "server", "offline")
TAILS = (50, 90, 95, 97, 99)
NS = 1_000_000_000

_COUNTS = (
    *("batch", "min_iterations", "max_iterations", "rounds", "warmup_window", "discarded_runs"),
    *("concurrency", "query_size", "processes"),
)
_AMOUNTS = (
    *("min_seconds", "max_seconds", "warmup_min_seconds", "warmup_max_seconds"),
    *("warmup_tolerance", "settle_seconds", "noise_floor"),
)


@dataclass(frozen=True)
class Workload:
    """What MLPerf Inference calls a scenario (inference_rules.adoc), and how long it is measured.

    `single`: the next query when the last one has answered. `multi`: the same, with `query_size` inferences a query.
    `offline`: all at once, so that throughput is what counts. In these `concurrency` callers run beside each other.
    `server`: queries arrive at `rate` a second with exponential gaps, whether or not the last one has answered, and
    wait for one of `concurrency` servers; latency runs from the scheduled arrival. Without a `rate` the highest one is
    searched for at which `tail_percent` of the queries answer within `latency_bound_ms`.

    Measuring goes on for `rounds` blocks, `min_iterations` and `min_seconds`, whichever ends last; and never
    past `max_iterations` or `max_seconds` of measured time for each subject, whichever comes first (one block of
    one run is the least). 662 iterations are the fewest from which p99 can be told.

    Warm-up ends when the medians of the last three windows of `warmup_window` runs lie within
    `warmup_tolerance` of each other and `warmup_min_seconds` have passed, or after `warmup_max_seconds`.

    The rounds are shared out among `processes` processes, one after another: where a process happens to lie in memory
    can change its speed by some percent, and an interval that never saw a second process knows nothing of that.

    When another subject ran last, `settle_seconds` pass and `discarded_runs` are made and thrown away.
    A difference smaller than `noise_floor` (relative) is never called one.
    """

    scenario: str = "single"
    batch: int = 1
    min_iterations: int = 662
    max_iterations: int = 20_000
    min_seconds: float = 3.0
    max_seconds: float = 60.0
    rounds: int = 10
    warmup_window: int = 10
    warmup_tolerance: float = 0.05
    warmup_min_seconds: float = 0.2
    warmup_max_seconds: float = 10.0
    settle_seconds: float = 0.05
    discarded_runs: int = 2
    noise_floor: float = 0.02
    concurrency: int = 1
    query_size: int = 8
    rate: float | None = None
    latency_bound_ms: float | None = None
    tail_percent: int = 99
    processes: int = 1

    def __post_init__(self) -> None:
        if self.scenario not in SCENARIOS:
            raise UsageError(f"workload: unknown scenario {self.scenario!r}", hint=f"use {', '.join(SCENARIOS)}")
        for name in _COUNTS:
            value, minimum = getattr(self, name), 0 if name == "discarded_runs" else 1
            if not isinstance(value, int) or value < minimum:
                raise UsageError(f"workload: {name} must be a whole number of at least {minimum}, got {value}")
        for name in _AMOUNTS:
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0) or (name == "max_seconds" and value == 0):
                least = "above 0" if name == "max_seconds" else "of at least 0"
                raise UsageError(f"workload: {name} must be a number {least}, got {value}")
        self._check_arrivals()
        for low, high in (
            ("min_iterations", "max_iterations"),
            ("min_seconds", "max_seconds"),
            ("warmup_min_seconds", "warmup_max_seconds"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise UsageError(f"workload: {low} {getattr(self, low)} is above {high} {getattr(self, high)}")

    def _check_arrivals(self) -> None:
        for name in ("rate", "latency_bound_ms"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"workload: {name} must be a number above 0, got {value}")
            if value is not None and self.scenario != "server":
                raise UsageError(f"workload: {name} means nothing in scenario {self.scenario}", hint="use server")
        if self.tail_percent not in TAILS:
            raise UsageError(
                f"workload: tail_percent must be one of {', '.join(map(str, TAILS))}, got {self.tail_percent}"
            )
        if self.scenario == "server" and self.rate is None and self.latency_bound_ms is None:
            raise UsageError(
                "workload: the server scenario needs a rate, or a latency_bound_ms to search the highest rate within"
            )
        if self.rate is not None and self.latency_bound_ms is not None:
            raise UsageError("workload: a rate is given, so none is searched within latency_bound_ms; leave one out")
        if self.scenario == "multi" and self.concurrency > 1:
            raise UsageError("workload: in scenario multi one caller sends the queries; leave concurrency at 1")

    @property
    def inferences(self) -> int:
        """Inferences in one timed run; each answers `batch` samples."""
        return self.query_size if self.scenario == "multi" else 1

    def share(self) -> Workload:
        """What one of the `processes` does of this workload."""
        count = self.processes
        return dataclasses.replace(
            self,
            processes=1,
            rounds=-(-self.rounds // count),
            min_iterations=-(-self.min_iterations // count),
            max_iterations=-(-self.max_iterations // count),
            min_seconds=self.min_seconds / count,
            max_seconds=self.max_seconds / count,
        )

    def feeds(self, samples: Samples) -> tuple[Feed, ...]:
        """The inputs that the runs go round, contiguous and in memory before the clock starts.

        Rows give full batches only: a smaller last one would be another workload.
        Raises UsageError if there are fewer rows than `batch`, or if feeds are asked for another batch.
        """
        if samples.items and self.batch != 1:
            raise UsageError(
                f"workload: batch {self.batch} cannot be made of samples that are complete feeds",
                hint="leave batch at 1, or give samples as rows",
            )
        if samples.rows and len(samples) < self.batch:
            raise UsageError(f"workload: batch {self.batch} needs as many rows, the samples have {len(samples)}")
        count = len(samples) // self.batch if samples.rows else len(samples)
        whole = itertools.islice(samples.feeds(self.batch), count)
        # Not ascontiguousarray, which makes a vector of a scalar.
        return tuple({name: np.asarray(array, order="C") for name, array in feed.items()} for feed in whole)

    def block_runs(self, run_ns: float) -> int:
        """How many runs of about `run_ns` each make one of `rounds` blocks."""
        wanted = max(self.min_iterations, self.min_seconds * NS / max(run_ns, 1.0))
        return math.ceil(min(wanted, self.max_iterations) / self.rounds)

    def finished(self, blocks: int, iterations: int, elapsed_ns: int) -> bool:
        """Is this enough of one subject, or all that it may have?"""
        enough = iterations >= self.min_iterations and elapsed_ns >= self.min_seconds * NS
        exhausted = iterations >= self.max_iterations or elapsed_ns >= self.max_seconds * NS
        return (blocks >= self.rounds and enough) or exhausted
