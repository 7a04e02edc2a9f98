"""How far two tensors are apart, judged against the scale of the first. Pure numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgeai.spec import Array

_CHUNK = 1 << 20  # elements converted to float64 at a time: a vocabulary times a sequence is large
# Attention masks write -1e9 or the dtype's lowest value into tensors; those are marks, not magnitudes.
_MARK = 1e6
_TINY = float(np.finfo(np.float32).tiny)
# The distance from 1 to the next number; numpy knows no bfloat16.
EPSILON: Mapping[str, float] = {"float16": 2**-10, "bfloat16": 2**-7, "float32": 2**-23, "float64": 2**-52}


@dataclass(frozen=True)
class Difference:
    """`error` is max |a-b| / max(scale, |a|); `squares` are the sums of a², b², (a-b)² and ab.

    `index` is where the error is largest. For integers, bools and strings `error` is the share that differs.
    """

    error: float
    index: tuple[int, ...]
    reference: float
    candidate: float
    squares: tuple[float, float, float, float]
    nonfinite: bool  # NaN or infinity stands in one side only, or the infinities differ in sign


def scale_of(array: Array) -> float:
    """Root mean square of the finite values that are magnitudes; 0 for integers and for an empty array."""
    total, count = 0.0, 0
    if is_float(array):
        for start in range(0, array.size, _CHUNK):
            values = _chunk(array, start)
            kept = values[np.isfinite(values) & (np.abs(values) < _MARK)]
            total += float(kept @ kept)
            count += kept.size
    return math.sqrt(total / count) if count else 0.0


def difference(reference: Array, candidate: Array, *, floor: float = 0.0) -> Difference:
    """Compare two arrays of one shape. No scale is taken to be smaller than `floor`."""
    if not is_float(reference):
        return _exact(reference, candidate)
    scale = max(scale_of(reference), floor, _TINY)
    worst, where, squares, nonfinite = 0.0, 0, np.zeros(4), False
    for start in range(0, reference.size, _CHUNK):
        a, b = _chunk(reference, start), _chunk(candidate, start)
        finite = np.isfinite(a) & np.isfinite(b)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        if not nonfinite and (odd := np.flatnonzero(~finite & ~same)).size:
            nonfinite, where = True, start + int(odd[0])
        a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
        errors = np.abs(a - b) / np.maximum(np.abs(a), scale)
        if not nonfinite and errors.size and errors.max() > worst:
            worst, where = float(errors.max()), start + int(errors.argmax())
        squares += (a @ a, b @ b, (a - b) @ (a - b), a @ b)
    index, values = _element(reference, candidate, where)
    return Difference(math.inf if nonfinite else worst, index, *values, _four(squares), nonfinite)


def _exact(reference: Array, candidate: Array) -> Difference:
    differs = np.asarray(reference != candidate)
    share = float(differs.mean()) if differs.size else 0.0
    index, values = _element(reference, candidate, int(differs.argmax()) if differs.size else 0)
    count = float(reference.size)
    return Difference(share, index, *values, (count, count, share * count, (1 - share) * count), False)


def _element(reference: Array, candidate: Array, where: int) -> tuple[tuple[int, ...], tuple[float, float]]:
    if not reference.size:
        return (0,) * reference.ndim, (0.0, 0.0)
    index = tuple(int(i) for i in np.unravel_index(where, reference.shape))
    pair = (reference[index], candidate[index])
    if reference.dtype.kind in "OUS":
        return index, (math.nan, math.nan)
    return index, (float(pair[0]), float(pair[1]))


def is_float(array: Array) -> bool:
    """Are the values judged by a scale? All others are compared exactly."""
    # bfloat16 and its kin are registered by another package and have kind "V".
    return array.dtype.kind in "fV"


def _chunk(array: Array, start: int) -> Array:
    flat: Array = array.reshape(-1)[start : start + _CHUNK].astype(np.float64)
    return flat


def _four(squares: Array) -> tuple[float, float, float, float]:
    a, b, c, d = (float(value) for value in squares)
    return a, b, c, d
