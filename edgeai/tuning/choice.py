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


@dataclass(frozen=True)
class Measured:
    """A candidate: `ratio` is its median latency over the baseline's, `ratio_low..ratio_high` its 95 % interval.

    `refused` says why accuracy or verification rules it out; empty where nothing does.
    """

    name: str
    size_bytes: int
    ratio: float = 1.0
    ratio_low: float = 1.0
    ratio_high: float = 1.0
    refused: str = ""

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


def choose(baseline: Measured, candidates: Sequence[Measured]) -> Choice:
    """Pick what ships. The baseline is the verified float model and is always allowed.

    Among the resolved faster: the fastest, or the smallest of those whose interval reaches the fastest's.
    Among the as fast: the smallest, if it is below 90 % of the baseline's size. Otherwise the baseline.
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
        winner = min(near, key=lambda candidate: (candidate.size_bytes, candidate.ratio))
    elif smaller:
        winner = min(smaller, key=lambda candidate: candidate.size_bytes)
    else:
        winner = baseline
    reasons = {candidate.name: _reason(candidate, winner, baseline) for candidate in (baseline, *candidates)}
    return Choice(winner.name, reasons)


def _reason(candidate: Measured, winner: Measured, baseline: Measured) -> str:
    share = candidate.size_bytes / baseline.size_bytes
    if candidate is winner:
        if candidate is baseline:
            return "kept: nothing that keeps the accuracy was measured faster, or as fast and smaller"
        return f"kept: {_speed(candidate)}, {share:.0%} of the size"
    if candidate.refused:
        return candidate.refused
    if candidate is baseline:
        return f"replaced by {winner.name}"
    if candidate.is_slower:
        return f"slower than {baseline.name}: {_speed(candidate)}"
    if candidate.is_faster:
        return f"{_speed(candidate)}, but {winner.name} is {'smaller' if _near(candidate, winner) else 'faster'}"
    if not candidate.is_as_fast:
        return f"not shown to be as fast: {_speed(candidate)}"
    if share >= SMALLER_SHARE:
        return f"neither faster nor smaller: {_speed(candidate)}, {share:.0%} of the size"
    return f"{winner.name} is {'faster' if winner.is_faster else 'smaller'}"


def _near(candidate: Measured, winner: Measured) -> bool:
    return candidate.ratio <= winner.ratio_high and winner.size_bytes < candidate.size_bytes


def _speed(candidate: Measured) -> str:
    return f"{candidate.ratio:.2f}x the time ({candidate.ratio_low:.2f}..{candidate.ratio_high:.2f})"
