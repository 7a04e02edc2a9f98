"""What calibration keeps of one tensor."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from edgeai.quantization.histogram import Histogram
from edgeai.spec import Array

# The weight of the newest feed in the moving average: that of the last ten feeds together is two thirds.
MOMENTUM = 0.1


@dataclass
class Channels:
    """Of each channel along `axis`: the largest magnitude and the sum, over `count` positions."""

    axis: int
    largest: Array  # (C,) float64
    total: Array  # (C,) float64
    count: int

    @classmethod
    def of(cls, array: Array, axis: int) -> Channels:
        others = tuple(i for i in range(array.ndim) if i != axis % array.ndim)
        number = array.shape[axis]
        if not array.size:
            return cls(axis, np.zeros(number), np.zeros(number), 0)
        largest = np.maximum(array.max(others), -array.min(others)).astype(np.float64)
        return cls(axis, largest, array.sum(others, dtype=np.float64), array.size // number)

    @property
    def mean(self) -> Array:
        mean: Array = self.total / max(self.count, 1)
        return mean

    def merge(self, other: Channels) -> Channels:
        return Channels(
            self.axis, np.maximum(self.largest, other.largest), self.total + other.total, self.count + other.count
        )


@dataclass
class Statistics:
    """The histogram, and the extremes of each feed, averaged so that the newest count most.

    `recent` are the two averages as they grow from zero: after n feeds they hold 1 - (1 - MOMENTUM)**n of the whole
    (Kingma and Ba, 2015, section 3, do the same with moments), which makes a merge exact. `feeds` counts all feeds,
    `averaged` those in which the tensor had values.
    """

    histogram: Histogram = field(default_factory=Histogram)
    recent: tuple[float, float] = (0.0, 0.0)
    averaged: int = 0
    feeds: int = 0
    channels: Channels | None = None

    @property
    def average(self) -> tuple[float, float]:
        """The moving averages of the lowest and of the highest value of a feed."""
        whole = 1.0 - (1.0 - MOMENTUM) ** self.averaged
        return (self.recent[0] / whole, self.recent[1] / whole) if self.averaged else (0.0, 0.0)

    def observe(self, array: Array, axis: int | None = None) -> None:
        """Take in one more feed, with the channels along `axis` if it is given. Raises FloatingPointError for NaN."""
        extremes = self.histogram.observe(array)
        self.feeds += 1
        if extremes is not None:
            kept = 1.0 - MOMENTUM
            self.recent = (
                kept * self.recent[0] + MOMENTUM * extremes[0],
                kept * self.recent[1] + MOMENTUM * extremes[1],
            )
            self.averaged += 1
        if axis is not None and not self.histogram.marks:  # a tensor with marks stays float
            found = Channels.of(array, axis)
            self.channels = found if self.channels is None else self.channels.merge(found)

    def merge(self, other: Statistics) -> Statistics:
        """What one observer had seen, had the feeds of `other` come after these."""
        faded = (1.0 - MOMENTUM) ** other.averaged
        channels = self.channels or other.channels
        if self.channels is not None and other.channels is not None:
            channels = self.channels.merge(other.channels)
        return Statistics(
            self.histogram.merge(other.histogram),
            (faded * self.recent[0] + other.recent[0], faded * self.recent[1] + other.recent[1]),
            self.averaged + other.averaged,
            self.feeds + other.feeds,
            replace(channels) if channels is not None else None,
        )
