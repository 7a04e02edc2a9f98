"""Which requests go together, and which are due first."""

from __future__ import annotations

import time

import numpy as np
import pytest

from edgeai.runtime.gathering import Gathering, Request
from edgeai.runtime.pacing import Pace


def request(rows: int = 1, *, age: float = 0.0) -> Request:
    return Request({"x": np.zeros((rows, 1), np.float32)}, rows, None, arrived=time.monotonic() - age)


def test_a_group_is_due_when_nothing_more_comes_and_at_last_when_its_first_waited_long_enough() -> None:
    gathering = Gathering(max_batch=8, delay=100.0)
    first, second = request(age=30.0), request(age=1.0)
    gathering.add("a", 0, first)
    key, moment = gathering.most_urgent(at_once=False)
    assert key == "a" and moment - time.monotonic() < 1e-3  # nobody else came for two seconds: it is due already
    gathering.add("a", 1, second)
    assert gathering.most_urgent(at_once=False)[1] == pytest.approx(second.arrived + 2.0)
    gathering.add("a", 2, request())
    first.arrived -= 69.5
    assert gathering.most_urgent(at_once=False)[1] == pytest.approx(first.arrived + 100.0)


def test_what_is_full_goes_at_once_and_what_is_due_goes_by_age() -> None:
    gathering = Gathering(max_batch=2, delay=100.0)
    assert gathering.most_urgent(at_once=False)[0] is None
    assert gathering.add("young", 0, request())
    assert gathering.add("young", 1, request())  # full
    assert gathering.most_urgent(at_once=False)[0] == "young"
    gathering.add("old", 2, request(age=500.0))
    assert gathering.most_urgent(at_once=False)[0] == "old"
    assert [one.rows for one in gathering.take("young")] == [1, 1]
    assert gathering.take("old") and not gathering and gathering.waiting == 0


def test_batches_are_counted_before_they_are_made() -> None:
    gathering = Gathering(max_batch=4, delay=1.0)
    assert gathering.batches(1) == 1
    for number in range(6):
        gathering.add(number % 2, number, request(2))
    assert gathering.batches(1) == 12 // 4 + 2
    assert gathering.remove(0, 4) is False and gathering.holds(0, 4) is False
    assert gathering.waiting == 5 and len(list(gathering)) == 5


def test_the_bound_of_a_pace_lies_above_what_was_seen_and_forgets() -> None:
    pace = Pace()
    assert pace.bound == 0
    for _ in range(100):
        pace.add(1.0)
        pace.add(2.0)
    assert 2.0 < pace.bound < 5.0
    for _ in range(200):
        pace.add(0.1)
    assert pace.bound == pytest.approx(0.1, rel=1e-3)
    pace.add(1.0)
    assert pace.bound > 1.0
