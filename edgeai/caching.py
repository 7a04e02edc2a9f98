"""Samples of text for a decoder with a cache: nobody keeps empty keys and values in a file."""

from __future__ import annotations

import numpy as np

from edgeai.samples import Samples
from edgeai.spec import Signature

_IDS, _MASK, _PAST_INPUTS = "input_ids", "attention_mask", "past_key_values."


def with_empty_cache(samples: Samples, signature: Signature) -> Samples:
    """Rows of `input_ids` completed to what the graph takes: nothing masked, nothing cached.

    Samples that have the cache, and those for a model without one, come back as they are.
    """
    cached = [spec for spec in signature.inputs if spec.name.startswith(_PAST_INPUTS)]
    if not cached or not samples.rows or not {_IDS} <= set(samples.rows) <= {_IDS, _MASK}:
        return samples
    ids = samples.rows[_IDS]
    rows = {_MASK: np.ones(ids.shape, np.int64), **samples.rows}
    for spec in cached:
        sizes = [axis if isinstance(axis, int) else 0 for axis in spec.shape[1:]]
        rows[spec.name] = np.zeros((len(ids), *sizes), spec.dtype)
    return Samples.from_rows(rows, samples.labels)
