"""Speed is worth nothing if the answers changed: how far a subject's outputs are from the reference's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeai.comparison import difference, is_float
from edgeai.samples import Samples
from edgeai.spec import Array


@dataclass(frozen=True)
class Accuracy:
    """Over `feeds` feeds and all outputs, against the subject `reference`.

    `error` is the largest difference relative to its output's own scale (for integers the share that differs),
    `cosine` the lowest of any float output, `top1` the share of rows of the first float output whose largest entry
    stands at the same place. None where there is nothing to compare; `reason` then says why.
    """

    reference: str
    feeds: int
    error: float | None = None
    cosine: float | None = None
    top1: float | None = None
    reason: str = ""


def compare_answers(reference: Samples, candidate: Samples, *, name: str) -> Accuracy:
    """Both are outputs for the same inputs in the same order; `name` is the reference's."""
    pairs = list(zip(reference.feeds(), candidate.feeds(), strict=False))
    for mine, theirs in pairs:
        if any(key not in theirs or theirs[key].shape != array.shape for key, array in mine.items()):
            return Accuracy(name, len(pairs), reason="the outputs differ in name or shape")
    names = list(pairs[0][0]) if pairs else []
    floats = [key for key in names if is_float(pairs[0][0][key])]
    errors, cosines = [0.0], []
    for key in names:
        differences = [difference(mine[key], theirs[key]) for mine, theirs in pairs]
        errors += [found.error for found in differences]
        a, b, _, ab = np.sum([found.squares for found in differences], axis=0)
        if key in floats and a > 0 and b > 0:
            cosines.append(float(ab / math.sqrt(a * b)))
    error = max(errors)
    if not math.isfinite(error):
        return Accuracy(name, len(pairs), reason="NaN or infinity stands in one side only")
    return Accuracy(
        name,
        len(pairs),
        error,
        min(cosines, default=None),
        _top1([(mine[key], theirs[key]) for mine, theirs in pairs for key in floats[:1]]),
    )


def _top1(pairs: Sequence[tuple[Array, Array]]) -> float | None:
    if not pairs or any(mine.ndim < 2 or mine.shape[-1] < 2 or not mine.size for mine, _ in pairs):
        return None
    same = [np.asarray(mine.argmax(-1) == theirs.argmax(-1)).ravel() for mine, theirs in pairs]
    return float(np.concatenate(same).mean())
