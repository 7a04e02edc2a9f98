"""Why an output is wrong, where the answers themselves tell it: swapped, shifted, narrowed, an input passed through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edgeai.comparison import difference, is_float
from edgeai.repeatability import Witness
from edgeai.spec import Array

_NARROWER = {"float64": ("float16", "float32"), "float32": ("float16",)}


def explain(name: str, witnesses: Sequence[Witness], limit: float) -> str:
    """What output `name` of the candidate is instead, in a few words that fit all witnesses; empty if nothing does.

    `limit` is how far two answers may lie apart, in units of their scale, to be the same.
    """
    shown = [one for one in witnesses if one.expected[name].size and one.expected[name].shape == one.actual[name].shape]
    if not shown or all(_close(one.expected[name], one.actual[name], limit) for one in shown):
        return ""
    return next(_reasons(name, shown, limit), "")


def _reasons(name: str, witnesses: Sequence[Witness], limit: float) -> Iterator[str]:
    for other in witnesses[0].expected:
        if other != name and all(_close(one.expected[other], one.actual[name], limit) for one in witnesses):
            both = all(_close(one.expected[name], one.actual[other], limit) for one in witnesses)
            yield f"outputs {name} and {other} are swapped" if both else f"it is the reference's output {other}"
    for given in witnesses[0].feed:
        if all(_close(one.feed[given], one.actual[name], 0.0) for one in witnesses):
            yield f"it is input {given} unchanged"
    for axis in range(witnesses[0].expected[name].ndim):
        # Of two positions one would be left to compare, which proves little.
        long = [one for one in witnesses if one.expected[name].shape[axis] > 2]
        if long and all(_shifted(one.expected[name], one.actual[name], axis, limit) for one in long):
            yield f"it is the reference's, off by one position along axis {axis}"
    dtype = witnesses[0].expected[name].dtype.name
    for narrow in _NARROWER.get(dtype, ()):
        if all(_fits(one.actual[name], narrow) and not _fits(one.expected[name], narrow) for one in witnesses):
            yield f"its values are {narrow} ones: {dtype} is lost"
    if dtype == "int64" and all(_wraps(one.expected[name], one.actual[name]) for one in witnesses):
        yield "its values are narrowed to 32 bits"


def _close(a: Array, b: Array, limit: float) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape or not a.size:
        return False
    return difference(a, b).error <= (limit if is_float(a) else 0.0)


def _shifted(reference: Array, candidate: Array, axis: int, limit: float) -> bool:
    r, c = np.moveaxis(reference, axis, 0), np.moveaxis(candidate, axis, 0)
    if _close(r[1:], r[:-1], limit):  # equal at all positions: no shift would show
        return False
    return _close(r[1:], c[:-1], limit) or _close(r[:-1], c[1:], limit)


def _fits(array: Array, dtype: str) -> bool:
    with np.errstate(over="ignore"):
        return np.array_equal(array.astype(dtype).astype(array.dtype), array, equal_nan=True)


def _wraps(reference: Array, candidate: Array) -> bool:
    return np.array_equal(reference.astype(np.int32).astype(np.int64), candidate)
