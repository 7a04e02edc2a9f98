import numpy as np
import pytest

from edgeai.errors import InputError
from edgeai.runtime.remembered import RememberedEngine
from edgeai.runtime.testing import FakeEngine
from edgeai.spec import Array, Feed, Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "float32", ("n",)),), (TensorSpec("y", "float32", ("n",)),))


def feed(*values: float) -> dict[str, Array]:
    return {"x": np.array(values, np.float32)}


def test_each_question_is_asked_once() -> None:
    fake = FakeEngine(SIGNATURE, lambda feed: {"y": feed["x"] * 2})
    engine = RememberedEngine(fake)
    for _ in range(3):
        np.testing.assert_array_equal(engine.run(feed(1, 2))["y"], [2, 4])
        np.testing.assert_array_equal(engine.run(feed(3))["y"], [6])
    assert len(fake.calls) == 2
    assert engine.signature is SIGNATURE


def test_nobody_changes_an_answer_for_the_next() -> None:
    engine = RememberedEngine(FakeEngine(SIGNATURE, lambda feed: {"y": feed["x"] * 2}))
    answer = engine.run(feed(1))
    with pytest.raises(ValueError, match="read-only"):
        answer["y"][0] = 5
    answer.clear()
    assert engine.run(feed(1))["y"][0] == 2


def test_what_is_beyond_the_limit_is_asked_again() -> None:
    fake = FakeEngine(SIGNATURE, lambda feed: {"y": feed["x"] * 2})
    engine = RememberedEngine(fake, limit_bytes=8)
    for _ in range(2):
        engine.run(feed(1, 2))
        engine.run(feed(3))
    assert len(fake.calls) == 3


def test_a_refusal_is_no_answer() -> None:
    def refuse(feed: Feed) -> dict[str, Array]:
        raise InputError("no")

    engine = RememberedEngine(FakeEngine(SIGNATURE, refuse))
    for _ in range(2):
        with pytest.raises(InputError, match="no"):
            engine.run(feed(1))


def test_close_closes_the_engine() -> None:
    fake = FakeEngine(SIGNATURE, lambda feed: {"y": feed["x"]})
    RememberedEngine(fake).close()
    assert fake.closed
