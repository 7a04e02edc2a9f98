"""Every observer on every kind of tensor; then, each on the case that it exists for."""

from __future__ import annotations

import itertools
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeai.quantization.entropy import _divergences
from edgeai.quantization.histogram import HALF, MARK
from edgeai.quantization.ranges import Observer, Range, by_mse, quantile, range_of
from edgeai.quantization.statistics import MOMENTUM, Statistics

_OBSERVERS = get_args(Observer)
_VALUES = st.one_of(st.floats(width=32, allow_nan=False), st.floats(-4, 4, width=32), st.just(0.0), st.just(1e-45))
_ARRAYS = hnp.arrays(np.float32, hnp.array_shapes(max_dims=2, min_side=0, max_side=40), elements=_VALUES)
_RANDOM = np.random.default_rng(3)


def _seen(*arrays: np.ndarray) -> Statistics:
    statistics = Statistics()
    for array in arrays:
        statistics.observe(np.asarray(array, np.float32))
    return statistics


@pytest.mark.parametrize("observer", _OBSERVERS)
@given(arrays=st.lists(_ARRAYS, max_size=3), percentile=st.floats(50.1, 100))
def test_a_range_is_finite_holds_zero_and_has_a_scale(
    observer: Observer, arrays: list[np.ndarray], percentile: float
) -> None:
    found = range_of(_seen(*arrays), observer, percentile=percentile)
    assert found.low <= 0.0 <= found.high and found.low < found.high
    assert np.isfinite([found.low, found.high]).all() and found.high - found.low <= 2 * MARK
    assert np.float32((np.float32(found.high) - np.float32(found.low)) / 65535) >= np.finfo(np.float32).tiny


@pytest.mark.parametrize("observer", _OBSERVERS)
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], Range(0.0, 1.0)),
        ([0.0, 0.0], Range(0.0, 1.0)),
        ([1e-45], Range(0.0, 1.0)),
        ([-np.inf, np.inf], Range(0.0, 1.0)),
        ([3.0], Range(0.0, 3.0)),
        ([-2.0] * 50, Range(-2.0, 0.0)),
        ([5.0, -np.inf, -3.4028235e38], Range(0.0, 5.0)),
        ([-1e29, 1e29], Range(-1e29, 1e29)),
    ],
)
def test_tensors_of_one_value_or_none(observer: Observer, values: list[float], expected: Range) -> None:
    found = range_of(_seen(np.array(values)), observer)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=2e-3)


@given(hnp.arrays(np.float32, st.integers(1, 400), elements=st.floats(-1e6, 1e6, width=32)), st.floats(0.0, 1.0))
def test_a_quantile_is_within_a_bin_of_numpys(values: np.ndarray, share: float) -> None:
    histogram = _seen(values).histogram
    exact = [
        np.quantile(values, nudged, method="inverted_cdf") for nudged in np.clip([share - 1e-9, share + 1e-9], 0, 1)
    ]
    found = quantile(histogram, share)
    assert min(exact) - histogram.width <= found <= max(exact) + histogram.width


def test_percentile_cuts_both_tails_and_interpolates() -> None:
    values = _RANDOM.uniform(-1, 1, 200_000).astype(np.float32)
    found = range_of(_seen(values), "percentile", percentile=90.0)
    assert (found.low, found.high) == pytest.approx((-0.9, 0.9), abs=5e-3)


def test_moving_average_is_the_textbook_one_and_forgets_old_feeds() -> None:
    feeds = [_RANDOM.standard_normal(50).astype(np.float32) * scale for scale in (8.0, 1.0, 1.0, 1.0)]
    weights = np.array([(1 - MOMENTUM) ** i for i in range(len(feeds))][::-1])
    expected = np.average([feed.max() for feed in feeds], weights=weights)
    assert range_of(_seen(*feeds), "moving-average").high == pytest.approx(float(expected))
    assert _seen(*feeds).merge(_seen(*feeds)).average == pytest.approx(_seen(*feeds, *feeds).average)
    late = _seen(*([feeds[0]] + [feeds[1]] * 60))
    assert range_of(late, "moving-average").high == pytest.approx(feeds[1].max(), rel=0.02)


def test_a_feed_without_values_does_not_count_in_the_average() -> None:
    some = np.ones(3, np.float32)
    assert _seen(some, np.empty(0), some).average == _seen(some, some).average == pytest.approx((1.0, 1.0))
    assert _seen(some, np.empty(0)).feeds == 2


def _error(values: np.ndarray, found: Range, levels: int = 255) -> float:
    step = (found.high - found.low) / levels
    zero = round(-found.low / step)
    integers = np.clip(np.round(values / step) + zero, 0, levels)
    return float(np.mean(((integers - zero) * step - values) ** 2))


def test_mse_finds_what_a_search_over_real_rounding_finds() -> None:
    values = np.append(_RANDOM.laplace(size=200_000), [20.0, -25.0]).astype(np.float32)
    found = by_mse(_seen(values).histogram)
    best = min(_error(values, Range(-low, high)) for low in np.geomspace(4, 25, 15) for high in np.geomspace(4, 20, 15))
    assert _error(values, found) < 1.05 * best
    assert _error(values, found) < 0.75 * _error(values, Range(-25.0, 20.0))


def test_entropy_clips_a_far_outlier_and_leaves_a_flat_distribution_alone() -> None:
    normal = _RANDOM.standard_normal(100_000).astype(np.float32)
    clipped = range_of(_seen(np.append(normal, np.float32(30.0))), "entropy")
    assert 2.5 < clipped.high < 6.0
    flat = range_of(_seen(_RANDOM.uniform(-1, 1, 200_000)), "entropy")
    assert (flat.low, flat.high) == pytest.approx((-1.0, 1.0), rel=0.02)


def test_entropy_is_not_drowned_by_zeros() -> None:
    normal = np.abs(_RANDOM.standard_normal(20_000)).astype(np.float32)
    alone = range_of(_seen(normal), "entropy")
    assert alone.low == 0.0
    assert range_of(_seen(np.append(normal, np.zeros(500_000))), "entropy") == alone


def test_entropy_does_not_judge_by_a_handful_of_values() -> None:
    logits = _RANDOM.standard_normal(1280).astype(np.float32)
    assert range_of(_seen(logits), "entropy") == range_of(_seen(logits), "minmax")


def test_entropy_is_not_led_astray_by_a_spike() -> None:
    background = np.append(_RANDOM.standard_normal(50_000), np.full(150_000, -0.37) + _RANDOM.random(150_000) / 500)
    found = range_of(_seen(background), "entropy")
    assert np.mean((background < found.low) | (background > found.high)) <= 1e-3


def test_divergences_are_those_of_the_definition() -> None:
    counts = _seen(_RANDOM.standard_normal(2_000).astype(np.float32)).histogram.counts
    starts, stops = HALF - np.array([800, 950, 1000]), HALF + np.array([850, 900, 1200])
    np.testing.assert_allclose(
        _divergences(counts, starts, stops),
        [_divergence(counts, *window) for window in zip(starts, stops, strict=True)],
    )


def _divergence(counts: np.ndarray, start: int, stop: int) -> float:
    inside = counts[start:stop]
    p, q = inside.copy(), np.zeros(inside.size)
    p[0] += counts[:start].sum()
    p[-1] += counts[stop:].sum()
    bounds = np.arange(257) * inside.size // 256
    for first, last in itertools.pairwise(bounds):
        occupied = inside[first:last] > 0
        if occupied.any():
            q[first:last] = occupied * inside[first:last].sum() / occupied.sum()
    p, q = p / p.sum(), np.where(q > 0, q / q.sum(), 1e-4 / inside.size)
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())
