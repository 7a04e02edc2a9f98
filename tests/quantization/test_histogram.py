"""One pass, constant memory: what the counts promise, on values that break histograms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeai.quantization.histogram import HALF, MARK, Histogram

_VALUES = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.floats(-1, 1, width=32),
    st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 1e-38, 1e29, -1e29, MARK, -MARK, np.inf, -np.inf, -3.4028235e38]),
)
_ARRAYS = hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, min_side=0, max_side=9), elements=_VALUES)


def _seen(*arrays: np.ndarray) -> Histogram:
    histogram = Histogram()
    for array in arrays:
        histogram.observe(array)
    return histogram


@given(st.lists(_ARRAYS, max_size=5))
def test_nothing_is_lost_however_far_the_range_grows(arrays: list[np.ndarray]) -> None:
    histogram = _seen(*arrays)
    flat = np.concatenate([array.ravel() for array in arrays]) if arrays else np.empty(0, np.float32)
    kept = flat[np.abs(flat) < MARK]
    assert histogram.total == kept.size
    assert histogram.marks == flat.size - kept.size
    assert histogram.zeros == np.count_nonzero(kept == 0)
    if kept.size:
        assert (histogram.low, histogram.high) == (kept.min(), kept.max())
        edges = histogram.edges
        assert edges[0] <= kept.min() and kept.max() < edges[-1] and edges[HALF] == 0.0
        used = np.flatnonzero(histogram.counts)
        nonzero = kept[kept != 0]
        if nonzero.size:
            assert edges[used[0]] <= nonzero.min() + histogram.width
            assert edges[used[-1] + 1] >= nonzero.max() - histogram.width


@given(st.lists(_ARRAYS, min_size=2, max_size=5), st.randoms())
def test_order_and_grouping_do_not_matter(arrays: list[np.ndarray], random: Any) -> None:
    parts = [_seen(array) for array in arrays]
    forward, backward = parts[0], parts[-1]
    for part in parts[1:]:
        forward = forward.merge(part)
    for part in parts[-2::-1]:
        backward = backward.merge(part)
    whole = _seen(*arrays)
    random.shuffle(arrays)
    for other in (backward, whole, _seen(*arrays), forward.merge(Histogram())):
        assert (other.exponent, other.zeros, other.marks) == (forward.exponent, forward.zeros, forward.marks)
        assert (other.low, other.high) == (forward.low, forward.high)
        # Only values that underflow when they are scaled may land beside zero on its other side.
        assert set(np.flatnonzero(other.counts != forward.counts)) <= {HALF - 1, HALF}


def test_a_merge_is_bit_for_bit_what_one_histogram_would_be() -> None:
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(5000).astype(np.float32) * scale for scale in (1e-3, 1.0, 40.0, 0.2)]
    merged = _seen(arrays[0]).merge(_seen(arrays[1])).merge(_seen(*arrays[2:]))
    np.testing.assert_array_equal(merged.counts, _seen(*arrays).counts)
    np.testing.assert_array_equal(merged.counts, _seen(np.concatenate(arrays)).counts)


def test_counts_are_those_of_numpy() -> None:
    values = np.random.default_rng(1).standard_normal(100_000).astype(np.float32)
    histogram = _seen(*np.split(values, 20))
    np.testing.assert_array_equal(histogram.counts, np.histogram(values, histogram.edges)[0])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_float_dtype_is_counted(dtype: Any) -> None:
    histogram = _seen(np.array([[-1.5, 0.0], [np.inf, 2.0]], dtype))
    assert (histogram.total, histogram.zeros, histogram.marks) == (3, 1, 1)
    assert (histogram.low, histogram.high) == (-1.5, 2.0)


def test_nan_is_refused_and_changes_nothing() -> None:
    histogram = _seen(np.ones(3, np.float32))
    with pytest.raises(FloatingPointError):
        histogram.observe(np.array([2.0, np.nan, np.inf], np.float32))
    assert (histogram.total, histogram.high, histogram.marks) == (3, 1.0, 0)


def test_memory_is_that_of_the_bins() -> None:
    histogram = _seen(*(np.random.default_rng(i).standard_normal(10_000).astype(np.float32) for i in range(20)))
    assert histogram.counts.nbytes == 2 * HALF * 8
