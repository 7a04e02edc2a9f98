"""Feeds for the runs that nobody waits for: the first one of a shape allocates, tunes and compiles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgeai.probing import Sizes, redraw, shape_plans, size_of
from edgeai.spec import Array, Signature


def warm_up_feeds(signature: Signature) -> list[dict[str, Array]]:
    """One feed at a small usual shape; where axes are declared, also at the smallest and the largest of the shapes.

    The largest has at most `edgeai.probing.MAX_ELEMENTS` elements, and no axis is empty. Raises InputError for an
    input whose dtype numpy does not have.
    """
    plans = [plan for plan in shape_plans(signature) if all(plan.values())] or shape_plans(signature)[:1]
    chosen = [plans[0]]
    if signature.axes:
        by_size = sorted(plans, key=lambda plan: _elements(signature, plan))
        chosen += [plan for plan in (by_size[0], by_size[-1]) if plan not in chosen]
    return [redraw(signature, plan, np.random.default_rng(0)) for plan in _largest_last(signature, chosen)]


def _largest_last(signature: Signature, plans: Sequence[Sizes]) -> list[Sizes]:
    return sorted(plans, key=lambda plan: _elements(signature, plan))


def _elements(signature: Signature, plan: Sizes) -> int:
    return sum(math.prod(size_of(axis, plan) for axis in spec.shape) for spec in signature.inputs)
