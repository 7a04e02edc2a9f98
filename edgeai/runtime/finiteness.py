"""NaN and infinity in what goes in or comes out, for those who do not want to find them later."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np

from edgeai.errors import InputError, NonFiniteError
from edgeai.runtime.settings import NonFinite
from edgeai.spec import Array


class NonFiniteWarning(RuntimeWarning):
    """An input or an output holds NaN or infinity."""


def judge_inputs(feed: Mapping[str, Array], policy: NonFinite) -> None:
    """Warn of NaN and infinity in the inputs, or raise InputError, as the policy says."""
    if found := _found(feed, "input"):
        if policy == "refuse":
            raise InputError(found, hint="clean the input, or set non_finite to pass or warn")
        warnings.warn(found, NonFiniteWarning, stacklevel=3)


def judge_outputs(answer: Mapping[str, Array], policy: NonFinite) -> None:
    """Warn of NaN and infinity in the outputs, or raise NonFiniteError, as the policy says."""
    if found := _found(answer, "output"):
        if policy == "refuse":
            raise NonFiniteError(found, hint="verify the model against its reference at such inputs")
        warnings.warn(found, NonFiniteWarning, stacklevel=3)


def _found(arrays: Mapping[str, Array], what: str) -> str:
    """One phrase for the first tensor that holds any, else nothing."""
    for name, array in arrays.items():
        if array.dtype.kind != "f" or (finite := np.isfinite(array)).all():
            continue
        first = tuple(int(index) for index in np.argwhere(~finite)[0])
        nan = int(np.isnan(array).sum())
        infinite = array.size - int(finite.sum()) - nan
        counts = [f"{count} {word}" for count, word in ((nan, "NaN"), (infinite, "infinite")) if count]
        return f"{what} {name}: {' and '.join(counts)} of {array.size} values, the first at {list(first)}"
    return ""
