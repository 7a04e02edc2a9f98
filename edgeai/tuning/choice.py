"""Which of the measured candidates ships, and one sentence for each that does not.

Do no harm: the float model that was exported stays unless something else keeps the accuracy
and was measured faster, or is as fast and smaller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

# Below this share of the size an as-fast candidate is worth its lost precision for its size alone.
SMALLER_SHARE = 0.9
# A difference below the noise floor is none, and "as fast" means that the whole interval says so.
NOISE_FLOOR = 0.02
AS_FAST = 1.05
_SAME_SIZE = 1.01


@dataclass(frozen=True)
class Measured:
    """A candidate: `ratio` is its median latency (or other cost) over the baseline's, with its 95 % interval.

    `refused` says why accuracy or verification rules it out; empty where nothing does. `departures` counts settings
    that are not the usual ones.
    """

    name: str
    size_bytes: int
    ratio: float = 1.0
    ratio_low: float = 1.0
    ratio_high: float = 1.0
    refused: str = ""
    departures: int = 0

    @property
    def is_faster(self) -> bool:
        return self.ratio_high < 1 - NOISE_FLOOR

    @property
    def is_slower(self) -> bool:
        return self.ratio_low > 1 + NOISE_FLOOR

    @property
    def is_as_fast(self) -> bool:
        return not self.is_faster and not self.is_slower and self.ratio_high <= AS_FAST


@dataclass(frozen=True)
class Choice:
    """`reasons` has one sentence for every candidate, the chosen one included."""

    name: str
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Words:
    """How reasons speak of the cost that was measured."""

    cost: str = "the time"
    better: str = "faster"
    worse: str = "slower"
    same: str = "as fast"


TIME = Words()


def choose(baseline: Measured, candidates: Sequence[Measured], *, words: Words = TIME) -> Choice:
    """Pick what ships. The baseline is the verified float model and is always allowed.

    Among the resolved faster: the fastest, or the smallest of those whose interval reaches the fastest's; of those
    that are as small and as fast, the one with the fewest departures. Among the as fast: the smallest, if it is below
    90 % of the baseline's size. Otherwise the baseline.
    """
    allowed = [candidate for candidate in candidates if not candidate.refused]
    faster = [candidate for candidate in allowed if candidate.is_faster]
    smaller = [
        candidate
        for candidate in allowed
        if candidate.is_as_fast and candidate.size_bytes < SMALLER_SHARE * baseline.size_bytes
    ]
    if faster:
        fastest = min(faster, key=lambda candidate: candidate.ratio)
        near = [candidate for candidate in faster if candidate.ratio_low <= fastest.ratio_high]
        winner = _plainest(near)
    elif smaller:
        winner = _plainest(smaller)
    else:
        winner = baseline
    reasons = {candidate.name: _reason(candidate, winner, baseline, words) for candidate in (baseline, *candidates)}
    return Choice(winner.name, reasons)


def _plainest(candidates: Sequence[Measured]) -> Measured:
    """The smallest; of several forms of that size the one with the fewest departures that is as fast as the best."""
    smallest = min(candidate.size_bytes for candidate in candidates)
    same = [candidate for candidate in candidates if candidate.size_bytes <= smallest * _SAME_SIZE]
    best = min(candidate.ratio for candidate in same)
    close = [candidate for candidate in same if candidate.ratio <= best * (1 + NOISE_FLOOR)]
    return min(close, key=lambda candidate: (candidate.departures, candidate.ratio))


def _reason(candidate: Measured, winner: Measured, baseline: Measured, words: Words) -> str:
    share = candidate.size_bytes / baseline.size_bytes
    speed = f"{candidate.ratio:.2f}x {words.cost} ({candidate.ratio_low:.2f}..{candidate.ratio_high:.2f})"
    if candidate is winner:
        if candidate is baseline:
            return f"kept: nothing that keeps the accuracy was measured {words.better}, or {words.same} and smaller"
        return f"kept: {speed}, {share:.0%} of the size"
    if candidate.refused:
        return candidate.refused
    if candidate is baseline:
        return f"replaced by {winner.name}"
    if candidate.is_slower:
        return f"{words.worse} than {baseline.name}: {speed}"
    if candidate.is_faster:
        return f"{speed}, but {winner.name} is {_advantage(candidate, winner, words)}"
    if not candidate.is_as_fast:
        return f"not shown to be {words.same}: {speed}"
    if share >= SMALLER_SHARE:
        return f"neither {words.better} nor smaller: {speed}, {share:.0%} of the size"
    return f"{winner.name} is {words.better if winner.is_faster else 'smaller'}"


def _advantage(candidate: Measured, winner: Measured, words: Words) -> str:
    if candidate.ratio > winner.ratio_high:
        return words.better
    if winner.size_bytes * _SAME_SIZE < candidate.size_bytes:
        return "smaller"
    return words.better if winner.ratio < candidate.ratio else "plainer"
