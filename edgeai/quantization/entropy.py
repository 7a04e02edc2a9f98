"""The clipping threshold that loses the least information, by Kullback-Leibler divergence.

S. Migacz, "8-bit Inference with TensorRT", GPU Technology Conference 2017: of all thresholds, take the one whose
clipped distribution P is least surprised by its own quantization Q. Four points where practice goes wrong:
both signs are looked at (a histogram of |x| wastes half the levels on one-sided tensors), exact zeros stay out (they
cost nothing and would drown all else), P keeps what was clipped in its last bins while Q is made without it, and no
more than a thousandth is ever clipped: a spike (the constant background of images) makes every coarser level look
costly, and left alone the rule cut a fifth of all values off the reference ResNet's first layers.
"""

from __future__ import annotations

import numpy as np

from edgeai.quantization.histogram import HALF, Histogram
from edgeai.spec import Array

_LEVELS = 256
_CANDIDATES = 96
_MOST_CLIPPED = 1e-3
# What Q gives to bins that it should hold empty although P does not: without it those have an infinite divergence.
_LITTLE = 1e-4


def entropy_threshold(histogram: Histogram) -> float:
    """The magnitude at which to clip; at most the largest one seen.

    Looks only where bins are finer than levels: with fewer bins nothing is rounded, and nothing can be learnt. Nor can
    it from fewer values than bins: those are no distribution, and the rule would clip them hard (a classifier's
    logits on a hundred samples).
    """
    counts = histogram.counts
    largest = max(-histogram.low, histogram.high)
    used = np.flatnonzero(counts)
    if counts.sum() < counts.size:
        return largest
    below, above = HALF - min(int(used[0]), HALF), max(int(used[-1]) + 1, HALF) - HALF
    reach = max(below, above)
    fewest = max(_LEVELS // 2, _LEVELS - min(below, above))
    if reach <= fewest:
        return largest
    candidates = np.unique(np.linspace(fewest, reach, _CANDIDATES).astype(np.intp))
    starts, stops = HALF - np.minimum(candidates, below), HALF + np.minimum(candidates, above)
    until = np.append(0.0, np.cumsum(counts))
    allowed = until[stops] - until[starts] >= (1.0 - _MOST_CLIPPED) * until[-1]
    costs = np.where(allowed, _divergences(counts, starts, stops), np.inf)
    best = int(candidates[int(np.argmin(costs))])
    return largest if best == reach else best * histogram.width


def _divergences(counts: Array, starts: Array, stops: Array) -> Array:
    """KL(P || Q) for each window: its bins are kept, everything outside is clipped to the nearest of them.

    A sum over bins is a difference of running sums, and Q is constant over the occupied bins of a level: so each
    window costs as many steps as there are levels, not as there are bins.
    """
    bounds = starts[:, None] + np.arange(_LEVELS + 1) * (stops - starts)[:, None] // _LEVELS  # (windows, levels + 1)
    until, occupied, weighed = (
        np.append(0.0, np.cumsum(values)) for values in (counts, counts > 0, _times_log(counts, counts))
    )
    held = np.diff(until[bounds], axis=1)  # of each level
    inside, total = held.sum(axis=1), until[-1]
    q = (
        held / np.maximum(np.diff(occupied[bounds], axis=1), 1.0) / np.maximum(inside, 1.0)[:, None]
    )  # of each of its occupied bins
    first, last = counts[starts], counts[stops - 1]
    left, right = until[starts], total - until[stops]
    nothing = _LITTLE / (stops - starts)
    q_first, q_last = np.where(first > 0, q[:, 0], nothing), np.where(last > 0, q[:, -1], nothing)
    own = weighed[stops] - weighed[starts]
    for edge, clipped in ((first, left), (last, right)):
        own += _times_log(edge + clipped, edge + clipped) - _times_log(edge, edge)
    crossed = _times_log(held, q).sum(axis=1) + _times_log(left, q_first) + _times_log(right, q_last)
    divergences: Array = np.where(inside > 0, (own - crossed) / total - np.log(total), np.inf)
    return divergences


def _times_log(a: Array, b: Array) -> Array:
    """a log b, which is 0 where a is."""
    answer: Array = np.where(a > 0, a * np.log(np.where(a > 0, b, 1.0)), 0.0)
    return answer
