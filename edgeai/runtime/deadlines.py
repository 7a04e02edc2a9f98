"""What must happen when time is up: one thread for the whole process, asleep until the next deadline.

A timer thread for each run would cost more than most runs.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import os
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, final

from edgeai.errors import DeadlineError, EdgeAIError, UsageError

T = TypeVar("T")
_HINT = "allow more time, or ask for less at once"
_FEW = 64  # so many cancelled alarms are not worth a clean-up


def due(timeout: float) -> float:
    """The moment (`time.monotonic`, seconds) `timeout` seconds from now. Raises UsageError unless it is positive."""
    if not 0 < timeout < math.inf:
        raise UsageError(f"timeout = {timeout}, must be a positive number of seconds")
    return time.monotonic() + timeout


@final
class Alarm:
    """An action that is still to come. `cancel` is final: it also lets go of what the action holds."""

    __slots__ = ("_action", "_watch")

    def __init__(self, watch: Watch, action: Callable[[], None]) -> None:
        self._watch = watch
        self._action: Callable[[], None] | None = action

    @property
    def cancelled(self) -> bool:
        return self._action is None

    def cancel(self) -> None:
        if self._action is not None:
            self._action = None
            self._watch.forget()

    def ring(self) -> None:
        action, self._action = self._action, None
        if action is not None:
            action()


@final
class Watch:
    """Rings alarms in the order of their moments. Its thread starts with the first one and never ends."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._alarms: list[tuple[float, int, Alarm]] = []
        self._order = itertools.count()
        self._cancelled = 0
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        """How many alarms it still holds, cancelled ones included."""
        return len(self._alarms)

    def at(self, moment: float, action: Callable[[], None]) -> Alarm:
        """Call `action` at `moment` (`time.monotonic`), in the watch's thread: it must be short and never raise."""
        alarm = Alarm(self, action)
        with self._changed:
            heapq.heappush(self._alarms, (moment, next(self._order), alarm))
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep, name="edgeai-deadlines", daemon=True)
                self._thread.start()
            elif self._alarms[0][2] is alarm:
                self._changed.notify()
        return alarm

    def forget(self) -> None:
        """One alarm was cancelled. When most are, they go: a long timeout must not keep a million short runs."""
        with self._changed:
            self._cancelled += 1
            if self._cancelled > max(_FEW, len(self._alarms) // 2):
                self._alarms = [entry for entry in self._alarms if not entry[2].cancelled]
                heapq.heapify(self._alarms)
                self._cancelled = 0

    def _keep(self) -> None:
        while True:
            with self._changed:
                wait = self._alarms[0][0] - time.monotonic() if self._alarms else None
                if wait is None or wait > 0:
                    self._changed.wait(wait)
                    continue
                alarm = heapq.heappop(self._alarms)[2]
            alarm.ring()


@final
class Stop:
    """Ends one run from outside, before its next node. `options` are the run's own `onnxruntime.RunOptions`."""

    __slots__ = ("asked", "options")

    def __init__(self, options: Any) -> None:
        self.options = options
        self.asked = False

    def __call__(self) -> None:
        self.asked = True
        self.options.terminate = True


WATCH = Watch()


def run_until(moment: float, stop: Stop, run: Callable[[Any], T], *, what: str) -> T:
    """`run(stop.options)`, ended at `moment` (`time.monotonic`). Raises DeadlineError then, and what `run` raises."""
    if time.monotonic() >= moment:
        raise _too_late(what)
    alarm = WATCH.at(moment, stop)
    try:
        return run(stop.options)
    except EdgeAIError as error:
        if stop.asked:
            raise DeadlineError(f"{what}: the run was not done in its time, and was ended", hint=_HINT) from error
        raise
    finally:
        alarm.cancel()


async def run_aside(stop: Stop, run: Callable[[Any], T], *, timeout: float | None, what: str) -> T:
    """`run(stop.options)` in a thread of the event loop's executor; `timeout` in seconds, None for no limit.

    The time until a thread is free counts. Cancelling the task ends the run. Raises DeadlineError when time is up,
    UsageError for a timeout that is not positive, and what `run` raises.
    """
    moment, begun = None if timeout is None else due(timeout), False

    def work() -> T:
        nonlocal begun
        begun = True
        return run(stop.options) if moment is None else run_until(moment, stop, run, what=what)

    future = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        if timeout is not None:
            await asyncio.wait([future], timeout=timeout)
            if not begun:
                raise _too_late(what)
        return await future
    except (asyncio.CancelledError, DeadlineError):
        future.cancel()
        stop()
        raise


def _too_late(what: str) -> DeadlineError:
    return DeadlineError(f"{what}: the deadline passed before the run could start", hint=_HINT)


def _after_fork() -> None:
    WATCH.__init__()  # its thread stayed in the parent, and perhaps its lock


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
