"""How the values of one tensor are spread, in one pass and in memory that does not grow with their number.

The bins have a width that is a power of two and an edge at zero. A larger value makes all bins twice as wide, as often
as it takes: neighbours merge in pairs. So the counts depend on the values alone, neither on their order nor on how they
were split between histograms, and merging two histograms is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from edgeai.spec import Array

HALF = 2048  # bins on each side of zero; between 1024 and 2048 of them are in use on the longer side
MARK = 1e30  # what is larger, infinity included, marks a place (attention masks) and is no magnitude
_FINEST = -110  # exponent of the narrowest bins: their inverse is still a float32
_CHUNK = 1 << 16  # elements at a time: the buffers stay in the cache


@dataclass
class Histogram:
    """Counts of `HALF` bins below and `HALF` above zero, each `width` wide; a bin holds its lower edge.

    Zeros stand apart, because every quantizer represents them exactly. Marks are counted and otherwise ignored.
    `low` and `high` are the exact extremes of all other values; `low > high` as long as there were none.
    """

    exponent: int = _FINEST
    counts: Array = field(default_factory=lambda: np.zeros(2 * HALF))  # float64: exact up to 2**53
    zeros: int = 0
    marks: int = 0
    low: float = math.inf
    high: float = -math.inf

    @property
    def width(self) -> float:
        return float(2.0**self.exponent)

    @property
    def total(self) -> int:
        """How many values are counted, zeros included and marks not."""
        return int(self.counts.sum()) + self.zeros

    @property
    def edges(self) -> Array:
        """The `2 * HALF + 1` edges of the bins, float64; the one in the middle is 0."""
        edges: Array = np.arange(-HALF, HALF + 1) * self.width
        return edges

    def observe(self, array: Array) -> tuple[float, float] | None:
        """Count an array of any shape and float dtype; its own extremes, or None if it holds marks only or nothing.

        Raises FloatingPointError if it holds NaN; nothing of it is counted then.
        """
        values = np.ascontiguousarray(array).reshape(-1)
        if not values.size:
            return None
        if values.dtype != np.float32:
            values = values.astype(np.float64).clip(-2 * MARK, 2 * MARK).astype(np.float32)  # float64 may not fit
        low, high = float(values.min()), float(values.max())
        if math.isnan(low):
            raise FloatingPointError("NaN has no place in a histogram")
        if low <= -MARK or high >= MARK:
            kept = values[np.abs(values) < MARK]
            self.marks += values.size - kept.size
            return self.observe(kept)
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(_exponent(max(-low, high)))
        self._count(values)
        return low, high

    def merge(self, other: Histogram) -> Histogram:
        """The histogram of both: what one of them would be, had it seen everything."""
        exponent = max(self.exponent, other.exponent)
        return Histogram(
            exponent,
            _coarser(self.counts, exponent - self.exponent) + _coarser(other.counts, exponent - other.exponent),
            self.zeros + other.zeros,
            self.marks + other.marks,
            min(self.low, other.low),
            max(self.high, other.high),
        )

    def _widen(self, exponent: int) -> None:
        if exponent > self.exponent:
            self.counts = _coarser(self.counts, exponent - self.exponent)
            self.exponent = exponent

    def _count(self, values: Array) -> None:
        inverse, middle = np.float32(2.0**-self.exponent), np.float32(HALF)
        size = min(_CHUNK, values.size)
        scaled, narrow, index = np.empty(size, np.float32), np.empty(size, np.int32), np.empty(size, np.intp)
        found, zeros = np.zeros(2 * HALF, np.intp), 0
        for start in range(0, values.size, _CHUNK):
            part = values[start : start + _CHUNK]
            bins, integers, wide = scaled[: part.size], narrow[: part.size], index[: part.size]
            np.multiply(part, inverse, out=bins)  # by a power of two: exact, but for underflow
            np.floor(bins, out=bins)
            np.add(bins, middle, out=integers, casting="unsafe")  # processors convert to 32 bits, not to 64, in vectors
            np.copyto(wide, integers)
            found += np.bincount(wide, minlength=2 * HALF)
            zeros += int(np.count_nonzero(part == 0))
        found[HALF] -= zeros
        self.zeros += zeros
        self.counts += found


def _exponent(largest: float) -> int:
    """Of the narrowest bins that reach from -`largest` to `largest`."""
    return max(_FINEST, math.frexp(largest)[1] - (HALF.bit_length() - 1))


def _coarser(counts: Array, doublings: int) -> Array:
    """The same counts in bins `2**doublings` as wide."""
    if doublings >= HALF.bit_length() - 1:  # each side fits one bin
        below, above = counts[:HALF].sum(), counts[HALF:].sum()
        merged = np.zeros(2 * HALF)
        merged[HALF - 1], merged[HALF] = below, above
        return merged
    factor = 2**doublings
    kept = HALF // factor
    merged = np.zeros(2 * HALF)
    merged[HALF - kept : HALF + kept] = counts.reshape(-1, factor).sum(axis=1)
    return merged
