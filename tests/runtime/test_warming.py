"""Warm-up covers what was declared, and nothing that would end the process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeai.errors import InputError
from edgeai.runtime.session import Session
from edgeai.runtime.warming import warm_up_feeds
from edgeai.spec import Axis, Signature, TensorSpec


def _signature(*axes: Axis) -> Signature:
    tensors = (TensorSpec("x", "float32", ("batch", "length")), TensorSpec("ids", "int64", ("batch",), 0, 5))
    return Signature(tensors, (TensorSpec("y", "float32", ("batch",)),), axes)


def test_both_ends_of_what_was_declared_and_the_usual_shape() -> None:
    feeds = warm_up_feeds(_signature(Axis("batch", 1, 16), Axis("length", 4, 128, 4)))
    shapes = [feed["x"].shape for feed in feeds]
    assert shapes[0] == (1, 4)
    assert max(shape[0] for shape in shapes) == 16 or max(shape[1] for shape in shapes) == 128
    assert 2 <= len(shapes) <= 3
    assert all(feed["ids"].max() < 5 for feed in feeds)


def test_nothing_declared_is_one_small_shape() -> None:
    assert [feed["x"].shape for feed in warm_up_feeds(_signature())] == [(2, 5)]


def test_no_axis_is_empty() -> None:
    feeds = warm_up_feeds(_signature(Axis("batch", 0, 8), Axis("length", 0, 8)))
    assert all(array.size for feed in feeds for array in feed.values())


def test_a_session_runs_them_or_those_that_it_is_given(double: Path, model: Callable[..., Path]) -> None:
    seen: list[tuple[int, ...]] = []
    with Session(double) as session:
        call = session._call
        session._call = lambda names, feed, options: (seen.append(feed["x"].shape), call(names, feed, options))[1]
        assert session.warm_up() == 1
        assert session.warm_up([{"x": np.zeros((7, 3), np.float32)}] * 2) == 2
        with pytest.raises(InputError, match="missing x"):
            session.warm_up([{}])
    assert seen == [(2, 3), (7, 3), (7, 3)]
