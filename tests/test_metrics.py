import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeai.errors import DataError
from edgeai.metrics import IGNORED_LABEL, METRICS

ACCURACY, PERPLEXITY = METRICS["accuracy"], METRICS["perplexity"]


def test_accuracy_counts_hits() -> None:
    logits = np.array([[0, 1], [1, 0], [0, 1], [0, 1]], np.float32)
    assert ACCURACY(logits, np.array([1, 0, 0, 1])) == 0.75


@given(st.integers(2, 50), st.floats(-1e4, 1e4))
def test_a_model_that_knows_nothing_is_as_perplexed_as_the_vocabulary_is_large(size: int, level: float) -> None:
    logits = np.full((2, 3, size), level, np.float32)
    assert PERPLEXITY(logits, np.zeros((2, 3), np.int64)) == pytest.approx(size)


def test_ignored_labels_do_not_count() -> None:
    logits = np.zeros((1, 2, 4), np.float32)
    logits[0, 1] = [100, 0, 0, 0]
    assert PERPLEXITY(logits, np.array([[IGNORED_LABEL, 0]])) == pytest.approx(1)
    assert PERPLEXITY(logits, np.array([[0, IGNORED_LABEL]])) == pytest.approx(4)


def test_drop_is_relative_and_knows_the_direction() -> None:
    assert ACCURACY.drop(0.8, 0.72) == pytest.approx(0.1)
    assert PERPLEXITY.drop(10, 11) == pytest.approx(0.1)
    assert PERPLEXITY.drop(10, 9) == pytest.approx(-0.1)
    assert ACCURACY.drop(0, 0) == 0


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_shapes_that_do_not_fit_are_refused(metric: object) -> None:
    with pytest.raises(DataError, match="needs"):
        metric(np.zeros((2, 3)), np.zeros((3,), np.int64))  # type: ignore[operator]


def test_the_cosine_is_of_each_sample_and_one_for_two_zeros() -> None:
    cosine = METRICS["cosine"]
    values = cosine.per_sample(
        np.array([[1.0, 0], [0, 0], [1, 1], [0, 0]]), np.array([[0, 2.0], [0, 0], [3, 3], [1, 0]])
    )
    np.testing.assert_allclose(values, [0, 1, 1, 0])
    assert cosine.drop(1.0, 0.98) == pytest.approx(0.02)
