"""Successive halving: measure all a little, the better ones again and longer, and so on. Pure.

Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization", 2016.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Cost = tuple[float, float, float]
"""What is to become small, over the baseline's, and its 95 % interval."""

Measure = Callable[[Sequence[str], float], Mapping[str, Cost | None]]
"""Costs of these names, all measured in turn with this effort (1: a whole measurement); None where one cannot run."""


@dataclass(frozen=True)
class Halving:
    """`ranking`: the best first, those of the last round before those that fell earlier. `rounds` counts from 1.

    `failed` could not be measured, `untried` were not, because the time was up.
    """

    ranking: tuple[str, ...]
    costs: Mapping[str, Cost]
    rounds: Mapping[str, int]
    failed: tuple[str, ...]
    untried: tuple[str, ...]


def halve(
    names: Sequence[str],
    measure: Measure,
    *,
    efforts: Sequence[float] = (0.15, 0.4),
    keep: int = 3,
    factor: int = 3,
    group: int = 8,
    left: Callable[[], float] = lambda: math.inf,
    reserve: float = 0.0,
) -> Halving:
    """Measure `names` once for each of `efforts`; after each round the best third stays, but never fewer than `keep`.

    The first round takes `group` names at a time, in the order given, and ends early when `left()` seconds would not
    leave `reserve`, but never before its first group; a later round takes as many as fit. The same costs give the same
    result.
    """
    costs: dict[str, Cost] = {}
    rounds: dict[str, int] = {}
    failed: list[str] = []
    per_effort = 0.0  # seconds for one name, over the effort

    def take(some: Sequence[str], number: int, effort: float) -> None:
        nonlocal per_effort
        before = left()
        found = measure(some, effort)
        per_effort = max(per_effort, (before - left()) / len(some) / effort) if before < math.inf else 0.0
        for name in some:
            cost = found[name]
            if cost is None:
                failed.append(name)
                costs.pop(name, None)
                rounds.pop(name, None)
            else:
                costs[name], rounds[name] = cost, number

    for start in range(0, len(names), group):
        some = names[start : start + group]
        if left() <= 0 or (start and left() - per_effort * efforts[0] * len(some) < reserve):
            break
        take(some, 1, efforts[0])
    untried = tuple(name for name in names if name not in costs and name not in failed)
    for number, effort in enumerate(efforts[1:], 2):
        best = _ranked(costs, rounds)
        best = [name for name in best if rounds[name] == number - 1]
        wanted = min(len(best), max(keep, math.ceil(len(best) / factor)))
        if per_effort:
            wanted = min(wanted, int(max(0.0, left() - reserve) / (per_effort * effort)))
        if wanted < 2 or left() <= 0:  # one alone has nobody to be compared with
            break
        take(best[:wanted], number, effort)
    return Halving(tuple(_ranked(costs, rounds)), costs, rounds, tuple(failed), untried)


def _ranked(costs: Mapping[str, Cost], rounds: Mapping[str, int]) -> list[str]:
    return sorted(costs, key=lambda name: (-rounds[name], costs[name][0]))
