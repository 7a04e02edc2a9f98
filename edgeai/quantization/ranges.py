"""From what calibration saw of a tensor to the range that its integers will cover.

Every rule answers with a range that holds 0, is finite, and is wide enough for a float32 scale. A narrower range than
the extremes rounds the many values finely and clips the few.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgeai.quantization.entropy import entropy_threshold
from edgeai.quantization.histogram import Histogram
from edgeai.quantization.statistics import Statistics
from edgeai.spec import Array

Observer = Literal["minmax", "moving-average", "percentile", "entropy", "mse"]

# The thresholds that `mse` chooses between, as shares of the extremes: a sixteenth of an octave apart, down to one bin.
_GRID = 2.0 ** (-np.arange(16 * 11 + 1) / 16)
_NARROWEST = 2**16 * float(np.finfo(np.float32).tiny)  # a 65,535th of it is still a normal float32


@dataclass(frozen=True)
class Range:
    """`low <= 0 <= high`, `low < high`."""

    low: float
    high: float

    @classmethod
    def holding(cls, low: float, high: float) -> Range:
        """The range from `low` to `high`, widened to hold 0; for values that no float32 scale can resolve, 0..1."""
        low, high = min(low, 0.0), max(high, 0.0)
        return cls(low, high) if high - low >= _NARROWEST else cls(0.0, 1.0)


def range_of(seen: Statistics, observer: Observer, *, percentile: float = 99.99) -> Range:
    """The range of a tensor by one of the observers. One of which no value was counted gets 0..1."""
    if seen.histogram.low > seen.histogram.high:
        return Range(0.0, 1.0)
    if observer == "percentile":
        return by_percentile(seen.histogram, percentile)
    return _RULES[observer](seen)


def by_percentile(histogram: Histogram, percentile: float) -> Range:
    """What is left after cutting the same share off both tails, `percentile` % in all."""
    cut = (100.0 - percentile) / 200.0
    return Range.holding(quantile(histogram, cut), quantile(histogram, 1.0 - cut))


def quantile(histogram: Histogram, share: float) -> float:
    """The value that `share` of all values do not exceed, interpolated inside its bin."""
    middle, edges = len(histogram.counts) // 2, histogram.edges
    # The zeros are a bin of their own, without width, between the two halves.
    counts = np.insert(histogram.counts, middle, histogram.zeros)
    lower, upper = np.insert(edges[:-1], middle, 0.0), np.insert(edges[1:], middle, 0.0)
    until = np.cumsum(counts)
    rank = max(share * until[-1], 1.0)
    index = int(np.searchsorted(until, rank, side="left"))
    inside = (rank - (until[index] - counts[index])) / counts[index]
    value = lower[index] + inside * (upper[index] - lower[index])
    return float(min(max(value, histogram.low), histogram.high))


def by_mse(histogram: Histogram, levels: int = 255) -> Range:
    """The thresholds that make the expected squared error smallest, each side for itself.

    Inside, rounding to steps of d costs d²/12 a value, zeros nothing; outside, the squared distance to the threshold.
    """
    counts = histogram.counts
    centers = (histogram.edges[:-1] + histogram.edges[1:]) / 2
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    lows, highs = low * _GRID, high * _GRID
    below, outside_below = _clipped(-centers[::-1], counts[::-1], -lows)
    above, outside_above = _clipped(centers, counts, highs)
    step = (highs[None, :] - lows[:, None]) / levels
    inside = counts.sum() - outside_below[:, None] - outside_above[None, :]
    cost = below[:, None] + above[None, :] + inside * step**2 / 12
    best = np.unravel_index(np.argmin(cost), cost.shape)
    return Range.holding(float(lows[best[0]]), float(highs[best[1]]))


def _clipped(centers: Array, counts: Array, thresholds: Array) -> tuple[Array, Array]:
    """For each threshold, the summed squared distance to it of all values above, and how many those are."""
    moments = [np.append(np.cumsum((counts * centers**power)[::-1])[::-1], 0.0) for power in range(3)]
    first = np.searchsorted(centers, thresholds, side="right")
    number, total, squares = (moment[first] for moment in moments)
    distance = squares - 2 * thresholds * total + thresholds**2 * number
    return np.maximum(distance, 0.0), number


def by_entropy(histogram: Histogram) -> Range:
    """What is left after clipping both sides at the threshold of `entropy_threshold`."""
    threshold = entropy_threshold(histogram)
    return Range.holding(max(histogram.low, -threshold), min(histogram.high, threshold))


_RULES: Mapping[str, Callable[[Statistics], Range]] = {
    "minmax": lambda seen: Range.holding(seen.histogram.low, seen.histogram.high),
    "moving-average": lambda seen: Range.holding(*seen.average),
    "entropy": lambda seen: by_entropy(seen.histogram),
    "mse": lambda seen: by_mse(seen.histogram),
}
