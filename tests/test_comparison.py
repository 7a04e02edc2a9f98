import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from edgeai.comparison import difference, scale_of


def test_the_worst_element_is_named_with_both_values() -> None:
    a = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    b = a.copy()
    b[1, 0] = 4.5
    found = difference(a, b)
    assert (found.index, found.reference, found.candidate) == ((1, 0), 4.0, 4.5)
    assert found.error == pytest.approx(0.5 / 4.0)


def test_small_elements_are_judged_by_the_scale_of_the_whole() -> None:
    a = np.array([1.0, -1.0, 1.0, 1e-7])
    b = np.array([1.0, -1.0, 1.0, 2e-7])
    assert difference(a, b).error == pytest.approx(1e-7 / math.sqrt(3 / 4))


def test_a_mask_fill_does_not_hide_an_error_beside_it() -> None:
    a = np.array([-1e9, 1.0, 2.0], np.float32)
    b = np.array([-1e9, 1.0, 3.0], np.float32)
    assert difference(a, b).error == pytest.approx(0.5)


def test_the_floor_keeps_noise_around_zero_from_being_an_error() -> None:
    a, b = np.full(3, 1e-12), np.full(3, -1e-12)
    assert difference(a, b).error == 2.0
    assert difference(a, b, floor=1.0).error == pytest.approx(2e-12)


@pytest.mark.parametrize(
    ("value", "other", "nonfinite"),
    [
        (np.nan, np.nan, False),
        (np.inf, np.inf, False),
        (np.inf, -np.inf, True),
        (1.0, np.nan, True),
        (np.nan, 1.0, True),
        (3e38, np.inf, True),
    ],
)
def test_nan_and_inf_must_stand_in_both_sides(value: float, other: float, nonfinite: bool) -> None:
    a, b = np.array([0.5, value]), np.array([0.5, other])
    found = difference(a, b)
    assert found.nonfinite is nonfinite
    assert found.index == ((1,) if nonfinite else (0,))
    assert math.isinf(found.error) is nonfinite


def test_integers_bools_and_strings_are_compared_exactly() -> None:
    assert difference(np.array([1, 2, 3, 4]), np.array([1, 2, 9, 4])).error == 0.25
    assert difference(np.array([True, False]), np.array([True, True])).index == (1,)
    strings = np.array(["a", "b"], object)
    assert difference(strings, np.array(["a", "c"], object)).error == 0.5
    assert difference(strings, strings).error == 0.0


def test_bfloat16_counts_as_a_float() -> None:
    a = np.array([1, 2, 4], ml_dtypes.bfloat16)
    b = np.array([1, 2, 5], ml_dtypes.bfloat16)
    assert scale_of(a) == pytest.approx(math.sqrt(7))
    assert difference(a, b).error == pytest.approx(0.25)


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_nothing_differs_in_nothing(dtype: type) -> None:
    empty = np.zeros((0, 3), dtype)
    assert difference(empty, empty).error == 0.0


@given(arrays(st.sampled_from([np.float16, np.float32, np.float64, np.int64, np.bool_]), st.sampled_from(
    [(0,), (0, 3), (2, 0, 3), (0, 0)]
)), st.floats(0, 1))  # fmt: skip
def test_empty_arrays_have_no_error_no_scale_and_no_nan(empty: np.ndarray, floor: float) -> None:
    found = difference(empty, empty.copy(), floor=floor)
    assert (found.error, found.nonfinite, found.squares) == (0.0, False, (0.0, 0.0, 0.0, 0.0))
    assert len(found.index) == empty.ndim and scale_of(empty) == 0.0


def test_large_arrays_are_compared_in_pieces() -> None:
    a = np.ones(3_000_000, np.float32)
    b = a.copy()
    b[2_999_999] = 2
    found = difference(a, b)
    assert found.index == (2_999_999,) and found.error == pytest.approx(1.0)
    assert found.squares[0] == pytest.approx(3e6) and found.squares[2] == pytest.approx(1.0)


floats = st.floats(-1e3, 1e3, width=32)


@given(arrays(np.float32, array_shapes(max_dims=3, max_side=5), elements=floats))
def test_an_array_agrees_with_itself_and_a_scaled_pair_by_the_same_error(a: np.ndarray) -> None:
    assert difference(a, a).error == 0.0
    b = a + np.float32(0.5)
    if scale_of(a) > 1e-3:
        assert difference(a * 8, b * 8).error == pytest.approx(difference(a, b).error, rel=1e-3)
