"""Futures of other threads, awaited: what comes, how often the loop is woken, and what becomes of the impatient."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

import pytest

from edgeai.runtime.awaiting import Mailbox


class Counted(asyncio.SelectorEventLoop):
    """An event loop that counts how often another thread wakes it."""

    woken = 0

    def call_soon_threadsafe(self, *arguments: Any, **options: Any) -> asyncio.Handle:
        self.woken += 1
        return super().call_soon_threadsafe(*arguments, **options)


def test_what_is_done_together_wakes_the_loop_once() -> None:
    futures = [Future[int]() for _ in range(50)]

    async def everything() -> list[int]:
        mailbox = Mailbox(asyncio.get_running_loop())
        tasks = [asyncio.create_task(mailbox.wait_for(future)) for future in futures]
        await asyncio.sleep(0)
        for n, future in enumerate(futures):
            future.set_result(n)
        return await asyncio.gather(*tasks)

    with asyncio.Runner(loop_factory=Counted) as runner:
        assert runner.run(everything()) == list(range(50))
        loop = runner.get_loop()
        assert isinstance(loop, Counted) and loop.woken == 1


def test_errors_and_cancellation_go_both_ways() -> None:
    failed, withdrawn, left = Future[int](), Future[int](), Future[int]()

    async def everything() -> None:
        mailbox = Mailbox(asyncio.get_running_loop())
        failed.set_exception(ValueError("no"))
        with pytest.raises(ValueError, match="no"):
            await mailbox.wait_for(failed)
        withdrawn.cancel()
        with pytest.raises(asyncio.CancelledError):
            await mailbox.wait_for(withdrawn)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(mailbox.wait_for(left), 0.01)
        assert left.cancelled()

    asyncio.run(everything())


def test_no_answer_is_lost_between_many_threads_and_the_loop() -> None:
    futures = [Future[int]() for _ in range(4000)]

    def settle(start: int) -> None:
        for n in range(start, len(futures), 4):
            futures[n].set_result(n)

    async def everything() -> list[int]:
        mailbox = Mailbox(asyncio.get_running_loop())
        tasks = [asyncio.create_task(mailbox.wait_for(future)) for future in futures]
        threads = [threading.Thread(target=settle, args=(start,)) for start in range(4)]
        for thread in threads:
            thread.start()
        return await asyncio.wait_for(asyncio.gather(*tasks), 60)

    assert asyncio.run(everything()) == list(range(4000))


def test_an_answer_for_a_closed_loop_is_nobodys(caplog: pytest.LogCaptureFixture) -> None:
    future = Future[int]()
    loop = asyncio.new_event_loop()
    task = loop.create_task(Mailbox(loop).wait_for(future))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    future.set_result(1)
    assert not task.done()
    assert not caplog.records, "concurrent.futures logs what its callbacks raise"
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # that is what is tested here
