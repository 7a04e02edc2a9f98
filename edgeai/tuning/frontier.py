"""Which points cannot be had better in one respect without losing in another. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def frontier(points: Mapping[str, Sequence[float]]) -> tuple[str, ...]:
    """Names of the points that no other dominates (Pareto), in the order given; every axis is better when smaller.

    Of points that are equal on all axes the first stays. All must have as many axes.
    """
    kept: list[str] = []
    for name, place in points.items():
        others = ((other, found) for other, found in points.items() if other != name)
        if not any(_dominates(found, place) for _, found in others) and not any(
            list(points[earlier]) == list(place) for earlier in kept
        ):
            kept.append(name)
    return tuple(kept)


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))
