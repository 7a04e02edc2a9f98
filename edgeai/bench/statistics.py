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


@cache
def allowed_over(n: int, percent: int) -> int | None:
    """How many of n queries may lie above a bound that the `percent`-th percentile must keep; None: too few queries.

    The largest t for which t or fewer would be seen with at most 1 % chance if the true share of queries below the
    bound were only `percent` (MLPerf Inference rules, appendix on early stopping: at 99 % confidence, d = 0).
    """
    below = np.searchsorted(_binomial_cdf(n, 1 - percent / 100), 0.01, side="right")
    return int(below) - 1 if below else None


def early_stopping(samples_ns: Array, percent: int) -> Estimate:
    """MLPerf's estimate of a percentile in ns: with t queries allowed above it, the t - 1 slowest are discarded.

    It is an upper bound of the percentile at 99 % confidence, and refused below `minimum_samples(percent)`.
    """
    n = len(samples_ns)
    allowed = allowed_over(n, percent) if n else None
    if not allowed:
        return Estimate(None, reason=f"p{percent} needs {minimum_samples(percent)} samples, got {n}")
    return Estimate(float(np.sort(samples_ns)[n - allowed]))


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
    cdf = _binomial_cdf(n, percent / 100)
    tail = (1 - CONFIDENCE) / 2
    low = int(np.searchsorted(cdf, tail, side="right"))
    high = int(np.searchsorted(cdf, 1 - tail, side="left")) + 1
    return max(low, 1), min(high, n)


def _binomial_cdf(n: int, p: float) -> Array:
    """P(X <= k) for k = 0..n, X binomial."""
    log_factorial = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1)))))
    k = np.arange(n + 1)
    log_pmf = log_factorial[n] - log_factorial - log_factorial[::-1] + k * math.log(p) + (n - k) * math.log1p(-p)
    return np.cumsum(np.exp(log_pmf))


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


def statistics(samples_ns: Sequence[int] | Array, *, duration_ns: int | None = None) -> dict[str, Estimate]:
    """Every row of STATISTICS; `duration_ns` is what throughput counts where runs overlap or wait for each other."""
    samples = np.asarray(samples_ns, dtype=np.int64)
    found = {name: statistic.compute(samples) for name, statistic in STATISTICS.items()}
    if duration_ns is not None and len(samples):
        found["throughput"] = Estimate(len(samples) * 1e9 / max(duration_ns, 1))
    return found


Processes = Sequence[int]
"""For each block the number of the process that it was measured in; empty where all came from one."""


def ratio_of_medians(
    a_blocks: Sequence[Sequence[int]], b_blocks: Sequence[Sequence[int]], *, processes: Processes = (), seed: int = 0
) -> Ratio:
    """The median round's median(a) / median(b), both in ns; the i-th blocks of both are from the same round.

    A machine that changes its speed between rounds changes both blocks of each, and the quotients stay what they are.
    The interval is a hierarchical bootstrap's: processes are drawn with replacement, then rounds in each, for both
    alike, and then the samples in each drawn block, since runs that stand side by side resemble each other (Kalibera
    and Jones, "Rigorous benchmarking in reasonable time", 2013). The same seed gives the same interval.
    Raises BenchmarkError if there are no blocks, not equally many, or empty ones.
    """
    if not a_blocks or len(a_blocks) != len(b_blocks) or not all(map(len, (*a_blocks, *b_blocks))):
        raise _no_pairs(a_blocks, b_blocks)
    groups, generator = _groups(processes, len(a_blocks)), np.random.default_rng(seed)
    draws = [_drawn(groups, generator) for _ in range(RESAMPLES)]
    rounds = np.concatenate(draws)
    a, b = _Blocks(a_blocks), _Blocks(b_blocks)
    quotients = a.resampled_medians(rounds, generator) / b.resampled_medians(rounds, generator)
    ends = np.cumsum([len(draw) for draw in draws])  # not all alike where processes differ in their rounds
    ratios = np.array([_middle(some) for some in np.split(quotients, ends[:-1])])
    return Ratio(_middle(a.medians() / b.medians()), *_interval(ratios), len(a_blocks))


def _middle(ratios: Array) -> float:
    """The median; between two the geometric mean, so that b to a is the inverse of a to b."""
    return float(np.exp(np.median(np.log(ratios))))


def _interval(ratios: Array) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(ratios, (tail, 1 - tail))
    return float(low), float(high)


def ratio_of_percentiles(
    a_blocks: Sequence[Sequence[int]],
    b_blocks: Sequence[Sequence[int]],
    percent: int,
    *,
    processes: tuple[Processes, Processes] = ((), ()),
    seed: int = 0,
) -> Ratio:
    """The same for another percentile, and for blocks of two runs apart: rounds are drawn for each on its own.

    Raises BenchmarkError if there are no blocks, or empty ones.
    """
    return _ratio(a_blocks, b_blocks, lambda samples: _nearest_rank(samples, percent), processes, seed=seed)


def ratio_of_means(
    a_blocks: Sequence[Sequence[int]],
    b_blocks: Sequence[Sequence[int]],
    *,
    processes: tuple[Processes, Processes] = ((), ()),
    seed: int = 0,
) -> Ratio:
    """mean(a) / mean(b) for blocks of two runs apart. Raises BenchmarkError as `ratio_of_percentiles` does."""
    return _ratio(a_blocks, b_blocks, lambda samples: float(samples.mean()), processes, seed=seed)


def _ratio(
    a_blocks: Sequence[Sequence[int]],
    b_blocks: Sequence[Sequence[int]],
    figure: Callable[[Array], float],
    processes: tuple[Processes, Processes],
    *,
    seed: int,
) -> Ratio:
    if not a_blocks or not b_blocks or not all(map(len, (*a_blocks, *b_blocks))):
        raise _no_pairs(a_blocks, b_blocks)
    a, b = _Blocks(a_blocks), _Blocks(b_blocks)
    a_groups, b_groups = _groups(processes[0], len(a_blocks)), _groups(processes[1], len(b_blocks))
    generator = np.random.default_rng(seed)
    ratios = np.array([
        figure(a.resampled(_drawn(a_groups, generator), generator))
        / figure(b.resampled(_drawn(b_groups, generator), generator))
        for _ in range(RESAMPLES)
    ])  # fmt: skip
    value = figure(a.samples) / figure(b.samples)
    return Ratio(value, *_interval(ratios), min(len(a_blocks), len(b_blocks)))


def _groups(processes: Processes, count: int) -> list[Array]:
    """The indices of the blocks of each process."""
    numbers = np.asarray(processes if len(processes) else np.zeros(count), dtype=np.int64)
    return [np.flatnonzero(numbers == number) for number in np.unique(numbers)]


def _drawn(groups: Sequence[Array], generator: np.random.Generator) -> Array:
    """Processes with replacement, and blocks with replacement within each."""
    chosen = [groups[i] for i in generator.integers(0, len(groups), len(groups))]
    return np.concatenate([group[generator.integers(0, len(group), len(group))] for group in chosen])


def _no_pairs(a_blocks: Sequence[Sequence[int]], b_blocks: Sequence[Sequence[int]]) -> BenchmarkError:
    return BenchmarkError(f"ratio: needs pairs of blocks with samples, got {len(a_blocks)} and {len(b_blocks)} blocks")


class _Blocks:
    """Blocks end to end, each in order, so that a whole resample is one indexing."""

    def __init__(self, blocks: Sequence[Sequence[int]]) -> None:
        # A clock that saw no time pass must not end in a division by zero.
        self.samples = np.maximum(np.concatenate([np.sort(np.asarray(block, dtype=np.int64)) for block in blocks]), 1)
        self._sizes = np.array([len(block) for block in blocks])
        self._starts = np.cumsum(self._sizes) - self._sizes

    def medians(self) -> Array:
        """Of each block, (blocks,)."""
        found: Array = self.samples[self._starts + (self._sizes - 1) // 2]
        return found

    def resampled_medians(self, rounds: Array, generator: np.random.Generator) -> Array:
        """The median of as many samples of each of `rounds` as it has, drawn with replacement; shaped like `rounds`.

        The k-th of n even draws from 0..1 has the distribution Beta(k, n + 1 - k), which spares drawing them all.
        """
        sizes = self._sizes[rounds]
        k = (sizes + 1) // 2
        within = np.minimum((generator.beta(k, sizes + 1 - k) * sizes).astype(np.int64), sizes - 1)
        found: Array = self.samples[self._starts[rounds] + within]
        return found

    def resampled(self, rounds: Array, generator: np.random.Generator) -> Array:
        """All samples of the drawn rounds, drawn again in each."""
        sizes = self._sizes[rounds]
        of_sample = np.repeat(sizes, sizes)
        within = (generator.random(len(of_sample)) * of_sample).astype(np.int64)
        drawn: Array = self.samples[np.repeat(self._starts[rounds], sizes) + within]
        return drawn


def _nearest_rank(samples: Array, percent: int) -> float:
    index = _rank(len(samples), percent) - 1
    return float(np.partition(samples, index)[index])


def verdict(ratio: Ratio | None, noise_floor: float) -> str:
    """`faster` or `slower` where the whole interval lies beyond the noise floor, otherwise `not resolved`."""
    if ratio is None or ratio.blocks < MIN_BLOCKS:
        return NOT_RESOLVED
    if ratio.high < 1 - noise_floor:
        return FASTER
    return SLOWER if ratio.low > 1 + noise_floor else NOT_RESOLVED
