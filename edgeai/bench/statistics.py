"""What raw samples say, and how sure it is. Pure functions of nanoseconds; a new figure is a row in STATISTICS.

A percentile is an order statistic (nearest rank): a latency that was really seen. Its interval is the
distribution-free one between two other order statistics, whose ranks the binomial distribution gives
(David and Nagaraja, Order Statistics, 3rd ed., section 7.1). It assumes independent runs; drift between blocks is
what `ratio_of_medians` adds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from edgeai.errors import BenchmarkError
from edgeai.spec import Array

CONFIDENCE = 0.95
RESAMPLES = 1000
# An interval from fewer resampled blocks is too narrow to call anything a difference.
MIN_BLOCKS = 5

FASTER, SLOWER, NOT_RESOLVED = "faster", "slower", "not resolved"


@dataclass(frozen=True)
class Estimate:
    """A figure in the unit of its statistic, with its 95 % interval where it has one.

    `value` is None where the samples cannot carry the figure; `reason` then says why.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Statistic:
    """`compute` takes samples (n,) int64 in ns, n >= 0."""

    name: str
    unit: str
    compute: Callable[[Array], Estimate]


@dataclass(frozen=True)
class Ratio:
    """A quotient of medians with its 95 % interval, from `blocks` pairs of blocks; 0.5 is half the latency."""

    value: float
    low: float
    high: float
    blocks: int


@cache
def minimum_samples(percent: int) -> int:
    """The fewest runs from which a percentile can be told: p90 64, p95 130, p99 662.

    With one run allowed above the percentile, the chance that n runs look this good although the true percentile
    lies higher must be below 1 % (MLPerf Inference rules, early stopping, at 99 % confidence).
    """
    p = percent / 100
    n = 2
    while p**n + n * (1 - p) * p ** (n - 1) > 0.01:
        n += 1
    return n


def percentile(samples_ns: Array, percent: int) -> Estimate:
    """The `percent`-th percentile in ns, or a refusal where there are fewer than `minimum_samples(percent)`."""
    n = len(samples_ns)
    if n < minimum_samples(percent):
        return Estimate(None, reason=f"p{percent} needs {minimum_samples(percent)} samples, got {n}")
    ordered = np.sort(samples_ns)
    low, high = _interval_ranks(n, percent)
    return Estimate(float(ordered[_rank(n, percent) - 1]), float(ordered[low - 1]), float(ordered[high - 1]))


def _rank(n: int, percent: int) -> int:
    return -(-n * percent // 100)


@cache
def _interval_ranks(n: int, percent: int) -> tuple[int, int]:
    """Ranks (1-based) between which the true percentile lies with at least 95 % confidence."""
    p = percent / 100
    log_factorial = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1)))))
    k = np.arange(n + 1)
    log_pmf = log_factorial[n] - log_factorial - log_factorial[::-1] + k * math.log(p) + (n - k) * math.log1p(-p)
    cdf = np.cumsum(np.exp(log_pmf))
    tail = (1 - CONFIDENCE) / 2
    low = int(np.searchsorted(cdf, tail, side="right"))
    high = int(np.searchsorted(cdf, 1 - tail, side="left")) + 1
    return max(low, 1), min(high, n)


def _needs_one(figure: Callable[[Array], float]) -> Callable[[Array], Estimate]:
    def compute(samples_ns: Array) -> Estimate:
        return Estimate(figure(samples_ns)) if len(samples_ns) else Estimate(None, reason="no samples")

    return compute


def _throughput(samples_ns: Array) -> float:
    return len(samples_ns) * 1e9 / max(float(samples_ns.sum()), 1.0)


def _percentile_of(percent: int) -> Callable[[Array], Estimate]:
    return lambda samples_ns: percentile(samples_ns, percent)


STATISTICS = {
    statistic.name: statistic
    for statistic in (
        *(Statistic(f"p{percent}", "ns", _percentile_of(percent)) for percent in (50, 90, 95, 99)),
        Statistic("mean", "ns", _needs_one(lambda samples: float(samples.mean()))),
        Statistic("min", "ns", _needs_one(lambda samples: float(samples.min()))),
        Statistic("throughput", "runs/s", _needs_one(_throughput)),
    )
}


def statistics(samples_ns: Sequence[int] | Array) -> dict[str, Estimate]:
    """Every row of STATISTICS."""
    samples = np.asarray(samples_ns, dtype=np.int64)
    return {name: statistic.compute(samples) for name, statistic in STATISTICS.items()}


def ratio_of_medians(a_blocks: Sequence[Sequence[int]], b_blocks: Sequence[Sequence[int]], *, seed: int = 0) -> Ratio:
    """median(a) / median(b), both in ns; the i-th blocks of both were taken in the same round.

    The interval is a hierarchical bootstrap's: rounds are drawn with replacement, for both alike, and then the
    samples in each drawn block, since runs that stand side by side resemble each other (Kalibera and Jones,
    "Rigorous benchmarking in reasonable time", 2013). The same seed gives the same interval.
    Raises BenchmarkError if there are no blocks, not equally many, or empty ones.
    """
    if not a_blocks or len(a_blocks) != len(b_blocks) or not all(map(len, (*a_blocks, *b_blocks))):
        raise BenchmarkError(
            f"ratio of medians: needs pairs of blocks with samples, got {len(a_blocks)} and {len(b_blocks)} blocks"
        )
    a, b = _Blocks(a_blocks), _Blocks(b_blocks)
    generator = np.random.default_rng(seed)
    ratios = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        rounds = generator.integers(0, len(a_blocks), len(a_blocks))
        ratios[i] = a.resampled_median(rounds, generator) / b.resampled_median(rounds, generator)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(ratios, (tail, 1 - tail))
    value = _median(a.samples) / _median(b.samples)
    return Ratio(value, float(low), float(high), len(a_blocks))


class _Blocks:
    """Blocks end to end, so that a whole resample is one indexing."""

    def __init__(self, blocks: Sequence[Sequence[int]]) -> None:
        # A clock that saw no time pass must not end in a division by zero.
        self.samples = np.maximum(np.concatenate([np.asarray(block, dtype=np.int64) for block in blocks]), 1)
        self._sizes = np.array([len(block) for block in blocks])
        self._starts = np.cumsum(self._sizes) - self._sizes

    def resampled_median(self, rounds: Array, generator: np.random.Generator) -> float:
        sizes = self._sizes[rounds]
        of_sample = np.repeat(sizes, sizes)
        within = (generator.random(len(of_sample)) * of_sample).astype(np.int64)
        return _median(self.samples[np.repeat(self._starts[rounds], sizes) + within])


def _median(samples: Array) -> float:
    middle = _rank(len(samples), 50) - 1
    return float(np.partition(samples, middle)[middle])


def verdict(ratio: Ratio | None, noise_floor: float) -> str:
    """`faster` or `slower` where the whole interval lies beyond the noise floor, otherwise `not resolved`."""
    if ratio is None or ratio.blocks < MIN_BLOCKS:
        return NOT_RESOLVED
    if ratio.high < 1 - noise_floor:
        return FASTER
    return SLOWER if ratio.low > 1 + noise_floor else NOT_RESOLVED
