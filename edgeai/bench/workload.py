"""What is run, how often and for how long: the question that a report answers."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from edgeai.errors import UsageError
from edgeai.samples import Samples
from edgeai.spec import Feed

SCENARIOS = ("single",)
NS = 1_000_000_000

_COUNTS = ("batch", "min_iterations", "max_iterations", "rounds", "warmup_window", "discarded_runs")
_AMOUNTS = (
    *("min_seconds", "max_seconds", "warmup_min_seconds", "warmup_max_seconds"),
    *("warmup_tolerance", "settle_seconds", "noise_floor"),
)


@dataclass(frozen=True)
class Workload:
    """`single`: one caller, who sends the next inference when the last one has answered.

    Measuring goes on for `rounds` blocks, `min_iterations` and `min_seconds`, whichever ends last; and never
    past `max_iterations` or `max_seconds` of measured time for each subject, whichever comes first (one block of
    one run is the least). 662 iterations are the fewest from which p99 can be told.

    Warm-up ends when the medians of the last three windows of `warmup_window` runs lie within
    `warmup_tolerance` of each other and `warmup_min_seconds` have passed, or after `warmup_max_seconds`.

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
        for low, high in (
            ("min_iterations", "max_iterations"),
            ("min_seconds", "max_seconds"),
            ("warmup_min_seconds", "warmup_max_seconds"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise UsageError(f"workload: {low} {getattr(self, low)} is above {high} {getattr(self, high)}")

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
