"""Answers of other threads for the tasks of an event loop, which is woken once for all that have come."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar, final

Result = TypeVar("Result")


@final
class Mailbox:
    """`asyncio.wrap_future` for many futures that are done at once: to wake the loop costs as much as a small answer.

    One for each loop; any thread may fill it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._lock = threading.Lock()
        self._deliveries: list[Callable[[], None]] = []

    async def wait_for(self, future: Future[Result]) -> Result:
        """What the future brings or raises. Cancelling the task cancels it."""
        waiting: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: self._put(lambda: _deliver(done, waiting)))
        try:
            return await waiting
        finally:
            future.cancel()  # only a wait that was ended leaves something to cancel

    def _put(self, deliver: Callable[[], None]) -> None:
        with self._lock:
            self._deliveries.append(deliver)
            is_first = len(self._deliveries) == 1
        loop = self._loop()
        if is_first and loop is not None:
            with contextlib.suppress(RuntimeError):  # a loop that is closed: nobody waits there any more
                loop.call_soon_threadsafe(self._empty)

    def _empty(self) -> None:
        with self._lock:
            deliveries, self._deliveries = self._deliveries, []
        for deliver in deliveries:
            deliver()


def _deliver(done: Future[Result], waiting: asyncio.Future[Result]) -> None:
    if waiting.done():
        return
    if done.cancelled():
        waiting.cancel()
    elif (error := done.exception()) is not None:
        waiting.set_exception(error)
    else:
        waiting.set_result(done.result())
