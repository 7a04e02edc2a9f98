import numpy as np

from edgeai.bench.accuracy import compare_answers
from edgeai.samples import Samples


def answers(*values: object, name: str = "y", dtype: object = np.float32) -> Samples:
    return Samples.from_feeds([{name: np.array(value, dtype)} for value in values])


def test_equal_answers() -> None:
    found = compare_answers(answers([[1, 2]], [[3, 0]]), answers([[1, 2]], [[3, 0]]), name="fp32")
    assert (found.reference, found.feeds, found.error, found.top1, found.reason) == ("fp32", 2, 0.0, 1.0, "")
    assert found.cosine is not None and abs(found.cosine - 1) < 1e-12


def test_a_changed_order_shows_in_top1_and_cosine() -> None:
    found = compare_answers(answers([[3, 4]], [[1, 0]]), answers([[4, 3]], [[1, 0]]), name="fp32")
    assert found.top1 == 0.5
    assert found.cosine is not None and abs(found.cosine - (24 + 1) / 26) < 1e-6


def test_integers_are_compared_exactly() -> None:
    found = compare_answers(answers([1, 2, 3, 4], dtype=np.int64), answers([1, 2, 3, 9], dtype=np.int64), name="a")
    assert (found.error, found.cosine, found.top1) == (0.25, None, None)


def test_what_cannot_be_compared_says_why() -> None:
    assert "shape" in compare_answers(answers([[1, 2]]), answers([[1]]), name="a").reason
    assert "name" in compare_answers(answers([[1]]), answers([[1]], name="z"), name="a").reason
    assert "NaN" in compare_answers(answers([[1.0]]), answers([[np.nan]]), name="a").reason
