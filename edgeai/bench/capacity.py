"""The highest rate of arrivals at which enough queries are answered in time, found by bisection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeai.bench.statistics import allowed_over

_CLOSE = 1.05
_MAX_TRIALS = 12
_HOPELESS = 32


@dataclass(frozen=True)
class Trial:
    """Queries that arrived at `rate` a second; `samples_ns` are latencies from the scheduled arrival.

    `valid`: as few of them are above the bound as MLPerf's early stopping allows for so many. A trial that could not
    become valid any more was ended, and has fewer samples.
    """

    rate: float
    valid: bool
    samples_ns: tuple[int, ...]


@dataclass(frozen=True)
class Capacity:
    """`rate` is the highest valid trial's, `refused` the lowest rate above it that failed; None if there was none."""

    bound_ns: int
    percent: int
    rate: float | None
    refused: float | None
    trials: tuple[Trial, ...]


def meets(samples_ns: Sequence[int], bound_ns: int, percent: int) -> bool:
    """Do so few latencies lie above the bound that, at 99 % confidence, the true percentile does not?"""
    over = sum(sample > bound_ns for sample in samples_ns)
    allowed = allowed_over(len(samples_ns), percent)
    return allowed is not None and over <= allowed


def search_rate(
    serve: Callable[[float], Sequence[int]],
    *,
    ceiling: float,
    bound_ns: int,
    percent: int,
    max_trials: int = _MAX_TRIALS,
) -> Capacity:
    """Bisect between 0 and `ceiling` (queries a second, what no engine of this speed can exceed).

    `serve` gives the latencies in ns of one trial at a rate. Ends when the bracket is within 5 %, or without a rate
    when none was valid down to a 32nd of the ceiling, where hardly any query waits for another.
    """
    low, high = 0.0, ceiling
    refused: float | None = None
    trials: list[Trial] = []
    while len(trials) < max_trials and (high / low > _CLOSE if low else high > ceiling / _HOPELESS):
        rate = (low + high) / 2
        samples = tuple(serve(rate))
        trials.append(Trial(rate, meets(samples, bound_ns, percent), samples))
        if trials[-1].valid:
            low = rate
        else:
            high = refused = rate
    return Capacity(bound_ns, percent, low or None, refused, tuple(trials))
