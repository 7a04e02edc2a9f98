"""Requests are answered together, each with its own rows, in time or with a word; and nothing of them stays behind."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import random
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeai.errors import DeadlineError, InputError, OverloadError, ProviderError, UsageError
from edgeai.runtime.batching import Batcher
from edgeai.runtime.engine import Engine
from edgeai.runtime.gathering import Request
from edgeai.runtime.pool import SessionPool
from edgeai.runtime.session import Session
from edgeai.runtime.stacking import Padding
from edgeai.runtime.testing import FakeEngine
from edgeai.spec import Array, Feed, Signature, TensorSpec

LONG = 60.0
SIGNATURE = Signature(
    (TensorSpec("x", "float32", ("batch", "width")),), (TensorSpec("y", "float32", ("batch", "width")),)
)


def feed(value: float, rows: int = 1, width: int = 3) -> dict[str, Array]:
    return {"x": np.full((rows, width), value, np.float32)}


class Gate:
    """An engine that answers 2 x when it is let."""

    def __init__(self, *, let: bool = True) -> None:
        self.engine = FakeEngine(SIGNATURE, self._answer)
        self.entered = threading.Semaphore(0)
        self.let = threading.Event()
        if let:
            self.let.set()

    def _answer(self, feed: Feed) -> dict[str, Array]:
        self.entered.release()
        assert self.let.wait(LONG)
        return {"y": 2 * feed["x"]}

    @property
    def batches(self) -> list[int]:
        return [len(call["x"]) for call in self.engine.calls]


@pytest.fixture
def closed() -> Iterator[Gate]:
    """A gate that is shut, and opened at the end whatever happened."""
    gate = Gate(let=False)
    yield gate
    gate.let.set()


def busy(batcher: Batcher, gate: Gate) -> concurrent.futures.Future[Any]:
    """The engine is at work on one request, so that others gather."""
    future = batcher.submit(feed(0))
    assert gate.entered.acquire(timeout=LONG)
    return future


def test_requests_that_wait_are_answered_together_each_with_its_own(closed: Gate) -> None:
    with Batcher(closed.engine, max_batch=8, max_delay_ms=0) as batcher:
        assert isinstance(batcher, Engine)
        first = busy(batcher, closed)
        futures = [batcher.submit(feed(n, rows)) for n, rows in enumerate([3, 4, 2, 8, 1])]
        assert batcher.waiting == 5
        closed.let.set()
        for n, future in enumerate(futures):
            np.testing.assert_array_equal(future.result(LONG)["y"], 2 * futures_feed(n))
        first.result(LONG)
    assert closed.batches == [1, 7, 2, 8, 1]
    assert (batcher.counts.answered, batcher.counts.batches, batcher.counts.rows) == (6, 5, 19)


def futures_feed(n: int) -> Array:
    return feed(n, [3, 4, 2, 8, 1][n])["x"]


def test_a_full_batch_does_not_wait_and_a_lonely_request_not_for_ever() -> None:
    gate = Gate()
    with Batcher(gate.engine, max_batch=4, max_delay_ms=3_600_000) as batcher:
        futures = [batcher.submit(feed(n)) for n in range(8)]
        assert len(concurrent.futures.wait(futures, LONG).done) == 8
    assert gate.batches == [4, 4]
    with Batcher(gate.engine, max_delay_ms=5) as batcher:
        assert batcher.run(feed(1), timeout=LONG)["y"].max() == 2


def test_shapes_are_kept_apart_and_padding_brings_them_together(closed: Gate) -> None:
    for padding, expected in ((None, [1, 2, 2]), (Padding("width", (8,), {"x": 0}), [1, 4])):
        gate = Gate(let=False)
        with Batcher(gate.engine, max_delay_ms=0, padding=padding) as batcher:
            busy(batcher, gate)
            futures = [(width, batcher.submit(feed(width, width=width))) for width in (3, 5, 3, 5)]
            gate.let.set()
            for width, future in futures:
                np.testing.assert_array_equal(future.result(LONG)["y"], 2 * feed(width, width=width)["x"])
        assert gate.batches == expected


def test_overload_is_refused_at_once_and_the_accepted_are_answered(closed: Gate) -> None:
    with Batcher(closed.engine, max_batch=4, max_queue=8) as batcher:
        futures = [busy(batcher, closed)]
        refused = 0
        for n in range(80):
            try:
                futures.append(batcher.submit(feed(n)))
            except OverloadError as error:
                assert "8 requests are waiting already (try again later)" in str(error)
                refused += 1
        assert (refused, len(futures)) == (72, 9)
        closed.let.set()
        assert len(concurrent.futures.wait(futures, LONG).done) == 9
    assert (batcher.counts.refused, batcher.counts.answered) == (72, 9)


def test_what_cannot_be_answered_in_its_time_is_refused_at_once(closed: Gate) -> None:
    with Batcher(closed.engine, max_batch=1, max_delay_ms=0) as batcher:
        slow = busy(batcher, closed)
        time.sleep(0.2)
        closed.let.set()
        slow.result(LONG)  # so long takes a batch, as far as anybody knows
        closed.let.clear()
        others = [batcher.submit(feed(1), timeout=LONG)]  # nothing is under way: it is not refused whatever it asks for
        assert closed.entered.acquire(timeout=LONG)
        with pytest.raises(OverloadError, match=r"an answer may take \d+ ms \(try again later, or allow more time\)"):
            batcher.submit(feed(2), timeout=0.2)
        others += [batcher.submit(feed(3), timeout=LONG), batcher.submit(feed(4))]
        closed.let.set()
        assert len(concurrent.futures.wait(others, LONG).done) == 3
    assert (batcher.counts.refused, batcher.counts.answered, batcher.counts.expired) == (1, 4, 0)


def test_a_batch_that_nobody_waits_for_is_no_measure_of_the_next(closed: Gate) -> None:
    with Batcher(closed.engine, max_batch=1, max_delay_ms=0) as batcher:
        slow = busy(batcher, closed)
        time.sleep(0.2)
        closed.let.set()
        slow.result(LONG)
        while not batcher._pace.bound:
            time.sleep(0.001)
        known = batcher._pace.bound
        expired = Request(feed(1), 1, None)
        expired.future.set_exception(DeadlineError("too late"))
        assert not batcher._run([expired])
        with batcher._changed:
            batcher._gathering.add("key", -1, expired)
            batcher._changed.notify()
        while batcher.waiting or batcher._running:
            time.sleep(0.001)
        assert batcher._pace.bound == known


def test_a_pool_is_given_as_many_batches_as_it_has_places(double: Path) -> None:
    with SessionPool(double, ep="cpu", size=3) as pool, Batcher(pool) as batcher:
        assert len(batcher._threads) == 3
        assert batcher.run({"x": np.ones((1, 3), np.float32)})["y"].max() == 2


def test_deadlines_are_kept_even_while_the_engine_is_busy(closed: Gate) -> None:
    with Batcher(closed.engine, max_delay_ms=0) as batcher:
        first = busy(batcher, closed)
        late = batcher.submit(feed(1), timeout=0.05)
        patient = batcher.submit(feed(2), timeout=LONG)
        with pytest.raises(DeadlineError, match="was not answered in its time"):
            late.result(LONG)
        with pytest.raises(DeadlineError):
            batcher.run(feed(3), timeout=0.05)
        closed.let.set()
        assert patient.result(LONG)["y"].max() == 4
        first.result(LONG)
    assert closed.batches == [1, 1]  # nobody computed what nobody waited for
    assert (batcher.counts.expired, batcher.waiting) == (2, 0)


def test_a_request_that_expires_while_it_is_computed_fails_alone(closed: Gate) -> None:
    with Batcher(closed.engine) as batcher:
        both = [batcher.submit(feed(1), timeout=0.2), batcher.submit(feed(2))]
        assert closed.entered.acquire(timeout=LONG)
        with pytest.raises(DeadlineError):
            both[0].result(LONG)
        closed.let.set()
        assert both[1].result(LONG)["y"].max() == 4


def test_what_nobody_waits_for_any_more_is_ended(model: Any) -> None:
    """All of a batch have deadlines, so a session is told the last of them: the endless loop frees the worker."""
    path = model("""l (int64[batch] count, float[batch] x) => (float[batch] y) <bool go = {1}> {
        most = ReduceMax<keepdims = 0>(count) y = Loop(most, go, x)
        <body = b (int64 i, bool c, float[batch] v) => (bool d, float[batch] w) { d = Identity(c) w = Neg(v) }> }""")
    ones = np.ones(1, np.float32)
    with Session(path) as session, Batcher(session, max_delay_ms=0) as batcher:
        with pytest.raises(DeadlineError):
            batcher.run({"count": np.array([2**62]), "x": ones}, timeout=0.2)
        np.testing.assert_array_equal(batcher.run({"count": np.array([3]), "x": ones}, timeout=LONG)["y"], -ones)


def test_wrong_requests_are_refused_at_once() -> None:
    with Batcher(Gate().engine, max_batch=4) as batcher:
        for wrong, reason in (
            ({}, "missing x"),
            ({"x": np.ones((1, 3))}, "expected float32"),
            (feed(1, rows=5), "a request of 5 rows, expected 1 to 4"),
            (feed(1, rows=0), "a request of 0 rows"),
        ):
            with pytest.raises(InputError, match=reason):
                batcher.submit(wrong)
        with pytest.raises(UsageError, match="positive number of seconds"):
            batcher.submit(feed(1), timeout=0)
        assert batcher.waiting == 0


def test_one_bad_request_does_not_spoil_its_batch(closed: Gate) -> None:
    def picky(feed: Feed) -> dict[str, Array]:
        closed.entered.release()
        assert closed.let.wait(LONG)
        if (feed["x"] == 13).any():
            raise InputError("13 is not possible")
        return {"y": 2 * feed["x"]}

    with Batcher(FakeEngine(SIGNATURE, picky), max_delay_ms=0) as batcher:
        busy(batcher, closed)
        futures = [batcher.submit(feed(n)) for n in (1, 13, 2)]
        closed.let.set()
        assert [futures[0].result(LONG)["y"].max(), futures[2].result(LONG)["y"].max()] == [2, 4]
        with pytest.raises(InputError, match="13 is not possible"):
            futures[1].result(LONG)


def test_a_failing_engine_fails_each_request_with_its_own_error_and_goes_on() -> None:
    broken = [True]

    def answer(feed: Feed) -> dict[str, Array]:
        if broken[0]:
            raise ProviderError("the device is gone")
        return {"y": feed["x"]}

    with Batcher(FakeEngine(SIGNATURE, answer), max_batch=2, max_delay_ms=3_600_000) as batcher:
        errors = [future.exception(LONG) for future in [batcher.submit(feed(1)), batcher.submit(feed(2))]]
        assert all(isinstance(error, ProviderError) for error in errors) and errors[0] is not errors[1]
        broken[0] = False
        assert [future.result(LONG)["y"].max() for future in [batcher.submit(feed(n)) for n in (1, 2)]] == [1, 2]
    assert (batcher.counts.failed, batcher.counts.answered) == (2, 2)


def test_closing_answers_what_waits_and_takes_nothing_more(closed: Gate) -> None:
    batcher = Batcher(closed.engine, max_delay_ms=3_600_000)
    futures = [batcher.submit(feed(n)) for n in range(3)]
    closed.let.set()
    batcher.close()
    batcher.close()
    assert [future.result(0)["y"].max() for future in futures] == [0, 2, 4]
    with pytest.raises(UsageError, match="the batcher is closed"):
        batcher.submit(feed(1))
    assert not any(thread.is_alive() for thread in batcher._threads)


def test_closing_in_a_hurry_says_so_to_those_that_it_leaves(closed: Gate) -> None:
    batcher = Batcher(closed.engine, max_delay_ms=0)
    under_way = busy(batcher, closed)
    waiting = batcher.submit(feed(1))
    batcher.close(timeout=0.05)
    with pytest.raises(OverloadError, match="closed before the request's turn"):
        waiting.result(0)
    closed.let.set()
    assert under_way.result(LONG)["y"].max() == 0


def test_a_thousand_cancellations_leave_nothing(closed: Gate) -> None:
    draw = random.Random(7)
    kept: list[weakref.ref[Array]] = []
    with Batcher(closed.engine, max_queue=2000, max_delay_ms=0) as batcher:
        busy(batcher, closed)
        futures = []
        for n in range(1000):
            request = feed(n, width=draw.randint(1, 5))
            kept.append(weakref.ref(request["x"]))
            futures.append(batcher.submit(request, timeout=draw.choice([None, LONG])))
        del request
        cancelled = {n for n in range(1000) if draw.random() < 0.5}
        for n in draw.sample(sorted(cancelled), len(cancelled)):
            assert futures[n].cancel()
        assert batcher.waiting == 1000 - len(cancelled)
        assert all(kept[n]() is None for n in cancelled)
        closed.let.set()
        done = concurrent.futures.wait(futures, LONG).done
        assert len(done) == 1000
        for n, future in enumerate(futures):
            assert future.cancelled() if n in cancelled else future.result(0)["y"].max() == 2 * n
    gc.collect()
    assert not any(reference() is not None for reference in kept)
    assert (batcher.counts.cancelled, batcher.counts.answered) == (len(cancelled), 1001 - len(cancelled))
    assert not batcher._gathering


def test_tasks_share_batches_and_their_cancellation_empties_the_queue(closed: Gate) -> None:
    async def main() -> None:
        with Batcher(closed.engine, max_delay_ms=0, max_queue=50) as batcher:
            busy(batcher, closed)
            tasks = [asyncio.create_task(batcher.run_async(feed(n), timeout=LONG)) for n in range(50)]
            while batcher.waiting < 50:
                await asyncio.sleep(0)
            with pytest.raises(OverloadError):
                await batcher.run_async(feed(1))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await asyncio.shield(tasks[0])
            for task in tasks[1::2]:
                task.cancel()
            await asyncio.sleep(0)
            while batcher.waiting > 25:
                await asyncio.sleep(0)
            closed.let.set()
            answers = await asyncio.gather(*tasks[0::2])
            assert [answer["y"].max() for answer in answers] == [4 * n for n in range(25)]
            assert batcher.counts.cancelled == 25

    asyncio.run(asyncio.wait_for(main(), LONG))
    assert closed.batches == [1, 25]


def test_many_threads_over_a_real_session_get_their_own_rows(double: Path) -> None:
    wrong: list[Any] = []
    with Session(double) as session, Batcher(session, max_batch=16, max_delay_ms=1, workers=2) as batcher:

        def ask(seed: int) -> None:
            draw = np.random.default_rng(seed)
            for _ in range(50):
                x = draw.random((int(draw.integers(1, 5)), 3), np.float32)
                if not np.array_equal(batcher.run({"x": x}, timeout=LONG)["y"], 2 * x):
                    wrong.append(seed)

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
            assert not thread.is_alive()
    assert not wrong
    assert batcher.counts.answered == 400
    assert batcher.counts.batches < 400


def test_threads_do_not_remain(double: Path) -> None:
    with Session(double) as session:
        for _ in range(20):
            with Batcher(session) as batcher:
                batcher.run({"x": np.ones((1, 3), np.float32)}, timeout=LONG)
        assert not [
            thread for thread in threading.enumerate() if thread.name == "edgeai-batcher" and thread in batcher._threads
        ]


@pytest.mark.parametrize("wrong", [{"max_batch": 0}, {"max_queue": 0}, {"max_delay_ms": -1.0}, {"workers": 0}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"batcher: {next(iter(wrong))} = .*, must be at least"):
        Batcher(Gate().engine, **wrong)


def test_age_goes_before_fullness(closed: Gate) -> None:
    """A shape that always fills its batches does not keep another waiting for ever."""
    with Batcher(closed.engine, max_batch=2, max_delay_ms=0) as batcher:
        busy(batcher, closed)
        rare = batcher.submit(feed(1, width=7))
        often = [batcher.submit(feed(2)) for _ in range(6)]
        closed.let.set()
        concurrent.futures.wait([rare, *often], LONG)
    assert [call["x"].shape[1] for call in closed.engine.calls] == [3, 7, 3, 3, 3]
