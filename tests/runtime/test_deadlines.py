"""Runs that end in time or not at all, and nothing left behind by those that were faster."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from edgeai.errors import DeadlineError, InputError, UsageError
from edgeai.runtime.deadlines import WATCH, Stop, Watch, run_until
from edgeai.runtime.session import Session

Write = Callable[..., Path]
X = np.ones((2, 3), np.float32)
LOOP = """l (int64 count, float[n] x) => (float[n] y) <bool go = {1}> {
    y = Loop(count, go, x) <body = b (int64 i, bool c, float[n] v) => (bool d, float[n] w)
        { d = Identity(c) w = Neg(v) }> }"""
FOREVER = {"count": np.array(2**62), "x": X[0]}
BRIEFLY = {"count": np.array(2), "x": X[0]}


def test_alarms_ring_in_order_and_cancelled_ones_do_not() -> None:
    watch, rung, last = Watch(), list[str](), threading.Event()
    now = time.monotonic()
    watch.at(now + 0.03, lambda: (rung.append("third"), last.set())[0])
    watch.at(now + 0.01, lambda: rung.append("first"))
    never = watch.at(now + 0.015, lambda: rung.append("never"))
    watch.at(now + 0.02, lambda: rung.append("second"))
    never.cancel()
    never.cancel()
    assert last.wait(30)
    assert rung == ["first", "second", "third"]


def test_a_million_short_runs_with_a_long_timeout_leave_nothing() -> None:
    watch = Watch()
    far = time.monotonic() + 3600
    for _ in range(2000):
        watch.at(far, lambda: None).cancel()
    assert len(watch) < 200
    alarms = [watch.at(far, lambda: None) for _ in range(100)]
    assert len(watch) >= 100
    for alarm in alarms:
        alarm.cancel()


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_is_a_positive_number_of_seconds(double: Path, timeout: float) -> None:
    with Session(double) as session, pytest.raises(UsageError, match="must be a positive number of seconds"):
        session.run({"x": X}, timeout=timeout)


def test_a_run_that_comes_too_late_does_not_begin() -> None:
    with pytest.raises(DeadlineError, match="m: the deadline passed before the run could start"):
        run_until(time.monotonic() - 1, Stop(None), lambda _: pytest.fail("it ran"), what="m")


def test_a_wrong_feed_is_not_called_late(double: Path) -> None:
    with Session(double) as session:
        with pytest.raises(InputError, match="missing x"):
            session.run({}, timeout=60)
        np.testing.assert_array_equal(session.run({"x": X}, timeout=60)["y"], 2 * X)
    assert len(WATCH) < 200


def test_one_of_many_runs_is_ended_and_the_others_are_not(model: Write) -> None:
    wrong: list[str] = []
    with Session(model(LOOP)) as session:

        def forever() -> None:
            try:
                session.run(FOREVER, timeout=0.2)
                wrong.append("it came to an end")
            except DeadlineError:
                return

        endless = [threading.Thread(target=forever) for _ in range(2)]
        for thread in endless:
            thread.start()
        for _ in range(50):
            np.testing.assert_array_equal(session.run(BRIEFLY)["y"], X[0])
        for thread in endless:
            thread.join(60)
            assert not thread.is_alive()
    assert not wrong


def test_async_runs_answer_in_their_own_tasks(double: Path) -> None:
    async def main() -> None:
        with Session(double) as session:
            feeds = [{"x": np.full((n, 3), n, np.float32)} for n in range(1, 20)]
            answers = await asyncio.gather(*(session.run_async(feed, timeout=60) for feed in feeds))
            for feed, answer in zip(feeds, answers, strict=True):
                np.testing.assert_array_equal(answer["y"], 2 * feed["x"])
            with pytest.raises(InputError, match="missing x"):
                await session.run_async({})

    asyncio.run(asyncio.wait_for(main(), 60))


def test_async_runs_end_with_their_deadline_or_their_task(model: Write) -> None:
    async def main() -> None:
        with Session(model(LOOP)) as session:
            with pytest.raises(DeadlineError):
                await session.run_async(FOREVER, timeout=0.1)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await session.run_async(FOREVER)
            answer = await session.run_async(BRIEFLY)
            np.testing.assert_array_equal(answer["y"], X[0])

    # Leaving the loop waits for its threads: were the cancelled run still going, this would never return.
    runner = threading.Thread(target=lambda: asyncio.run(main()))
    runner.start()
    runner.join(60)
    assert not runner.is_alive()


def test_the_time_that_an_async_run_waits_for_a_thread_counts(double: Path) -> None:
    async def main() -> None:
        loop, busy = asyncio.get_running_loop(), threading.Event()
        loop.set_default_executor(ThreadPoolExecutor(1))
        with Session(double) as session:
            other = loop.run_in_executor(None, busy.wait, 20)
            with pytest.raises(DeadlineError, match="the deadline passed before the run could start"):
                await session.run_async({"x": X}, timeout=0.05)
            assert not other.done()
            waiting = asyncio.create_task(session.run_async({"x": X}))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert not other.done()
            busy.set()
            assert await other
            np.testing.assert_array_equal((await session.run_async({"x": X}, timeout=60))["y"], 2 * X)

    asyncio.run(asyncio.wait_for(main(), 60))
