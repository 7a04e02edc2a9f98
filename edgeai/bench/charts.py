"""Figures as positions: what a template draws as inline SVG. Pure, in the units of a chart's own box."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeai.bench.limits import Ceilings, NodeCost
from edgeai.spec import Array

BINS = 48


@dataclass(frozen=True)
class Scale:
    """Values `low`..`high` onto 0..`length`, by their logarithm if `log`; 0 < low < high then."""

    low: float
    high: float
    length: float
    log: bool = False

    @classmethod
    def over(cls, values: Sequence[float], length: float, *, log: bool = False) -> Scale:
        """Round values, with a little room at both ends."""
        low, high = min(values), max(values)
        if log:
            low, high = max(low, 1e-12), max(high, 1e-12)
            return cls(low / 1.15, high * 1.15, length, True)
        room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
        return cls(min(low - room, 0.0) if low < 0 else max(low - room, 0.0), high + room, length)

    def at(self, value: float) -> float:
        if self.log:
            share = math.log(max(value, 1e-300) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.length * min(max(share, 0.0), 1.0), 2)

    def ticks(self) -> list[tuple[float, float]]:
        """(value, position) of round values, two to eight of them."""
        values = self._decades() if self.log else self._steps()
        return [(value, self.at(value)) for value in values]

    def _decades(self) -> list[float]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for factors in ((1.0, 1.5, 2.0, 3.0, 5.0, 7.0), (1.0, 2.0, 5.0), (1.0,)):
            every = [f * 10.0**power for power in range(first, last + 1) for f in factors]
            values = [value for value in every if self.low <= value <= self.high]
            if len(values) <= 7:
                break
        step = -(-len(values) // 7)
        return values[:: max(step, 1)]

    def _steps(self) -> list[float]:
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough)
        first = math.ceil(self.low / step)
        values = (round(i * step, 12) for i in range(first, math.floor(self.high / step) + 1))
        return [value for value in values if self.low <= value <= self.high]


@dataclass(frozen=True)
class Histogram:
    """`bars` are (left, width, height) under one scale; heights are shares of the tallest bar's box."""

    bars: tuple[tuple[float, float, float], ...]
    p50: float
    p99: float | None


def histogram(samples_ns: Array, scale: Scale, height: float, *, p99_ns: float | None) -> Histogram:
    """How often each latency was seen, in bins of equal width on a logarithmic `scale` of ms."""
    edges = np.geomspace(scale.low, scale.high, BINS + 1)
    counts, _ = np.histogram(np.clip(samples_ns / 1e6, edges[0], edges[-1]), edges)
    tallest = max(int(counts.max()), 1)
    width = scale.length / BINS
    bars = tuple(
        (round(i * width, 2), round(width, 2), round(height * int(count) / tallest, 2))
        for i, count in enumerate(counts)
        if count
    )
    middle = float(np.median(samples_ns)) / 1e6
    return Histogram(bars, scale.at(middle), None if p99_ns is None else scale.at(p99_ns / 1e6))


def frontier(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which of the points no other beats: less is better in both."""
    return [not any((x <= a and y <= b) and (x < a or y < b) for x, y in points) for a, b in points]


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    label: str


@dataclass(frozen=True)
class RooflineChart:
    """`roofs` are corner points of each ceiling, by its name; y grows downwards."""

    dots: tuple[Dot, ...]
    roofs: tuple[tuple[str, str], ...]
    x: Scale
    y: Scale


def roofline_chart(nodes: Sequence[NodeCost], ceilings: Ceilings, width: float, height: float) -> RooflineChart | None:
    """Operations a second over operations a byte; None if no node computes anything that is counted."""
    counted = [node for node in nodes if node.operations and node.time_ns]
    if not counted:
        return None
    intensities = [node.operations / max(node.weight_bytes + node.activation_bytes, 1) for node in counted]
    rates = [node.operations / node.time_ns * 1e9 for node in counted]
    best = max(ceilings.operations.values())
    ridge = best / ceilings.memory_bytes
    x = Scale.over([*intensities, ridge * 4, min(*intensities, ridge) / 4], width, log=True)
    y = Scale.over([*rates, best * 1.5, ceilings.memory_bytes * x.low], height, log=True)
    roofs = []
    for name, rate in ceilings.operations.items():
        corner = rate / ceilings.memory_bytes
        path = [(x.low, ceilings.memory_bytes * x.low), (corner, rate), (x.high, rate)]
        roofs.append((name, " ".join(f"{x.at(a)},{round(height - y.at(b), 2)}" for a, b in path)))
    dots = tuple(
        Dot(x.at(intensity), round(height - y.at(rate), 2), f"{node.name} ({node.op_type})")
        for node, intensity, rate in zip(counted, intensities, rates, strict=True)
    )
    return RooflineChart(dots, tuple(roofs), x, y)
