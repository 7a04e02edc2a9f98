"""Dynamic batching: requests that arrive together are answered together, and none waits longer than it agreed to."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import itertools
import os
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Hashable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from types import TracebackType
from typing import Self, final

from edgeai.errors import DeadlineError, EdgeAIError, InputError, OverloadError, UsageError
from edgeai.runtime.awaiting import Mailbox
from edgeai.runtime.deadlines import WATCH, Alarm, due
from edgeai.runtime.engine import Engine
from edgeai.runtime.feeds import FeedCheck
from edgeai.runtime.gathering import Answer, Gathering, Request
from edgeai.runtime.pacing import Pace
from edgeai.runtime.stacking import Padding, Stacking
from edgeai.spec import Feed, Signature


@dataclass(frozen=True)
class BatcherCounts:
    """What became of the requests so far. `rows` and `batches` are those that the engine was given."""

    answered: int = 0
    failed: int = 0
    refused: int = 0
    expired: int = 0
    cancelled: int = 0
    batches: int = 0
    rows: int = 0


@final
class Batcher:
    """Implements `Engine` over another engine, for many threads or tasks at once.

    A request is a feed of one or more rows. Requests with the same shapes, or the same after `padding`, are run as one
    batch of at most `max_batch` rows, as soon as there are so many, or the oldest has waited `max_delay_ms`, or no
    other has come for a fiftieth of that time. While the engine is busy, requests gather. What cannot be answered in
    its time is not taken, nor are more than `max_queue` waiting requests: that is said at once. `workers` is how many
    batches run at a time, with a `SessionPool` as many as it has places unless it is given. The engine's rows must not
    depend on each other (`edgeai.verify` looks at that). The batcher does not close its engine.

    Raises UsageError for an engine whose inputs and outputs share no batch axis, or a number out of range.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        max_batch: int = 32,
        max_delay_ms: float = 2.0,
        max_queue: int = 256,
        padding: Padding | None = None,
        workers: int | None = None,
    ) -> None:
        workers = getattr(engine, "size", 1) if workers is None else workers
        for name, value, least in (
            ("max_batch", max_batch, 1),
            ("max_delay_ms", max_delay_ms, 0),
            ("max_queue", max_queue, 1),
            ("workers", workers, 1),
        ):
            if not value >= least:
                raise UsageError(f"batcher: {name} = {value}, must be at least {least}")
        self.signature: Signature = engine.signature
        self.max_batch, self.max_queue = max_batch, max_queue
        self._engine = engine
        self._timed = "timeout" in inspect.signature(engine.run).parameters
        self._check = FeedCheck(engine.signature)
        self._stacking = Stacking(engine.signature, padding)
        self._changed = threading.Condition()
        self._gathering = Gathering(max_batch, max_delay_ms / 1e3)
        self._numbers = itertools.count()
        self._running = 0
        self._pace = Pace()
        self._tally: Counter[str] = Counter()
        self._closing = False
        self._mailboxes = weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Mailbox]()
        self._process = os.getpid()
        self._threads = [
            threading.Thread(target=self._serve, name="edgeai-batcher", daemon=True) for _ in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def counts(self) -> BatcherCounts:
        with self._changed:
            return BatcherCounts(**self._tally)

    @property
    def waiting(self) -> int:
        """How many requests have not been given to the engine yet."""
        return self._gathering.waiting

    def submit(self, feed: Feed, *, timeout: float | None = None) -> Future[Answer]:
        """The answer to come. Cancelling it always succeeds before the answer is there, and takes it out of the queue.

        The arrays must stay as they are until then. Raises at once: InputError for a feed that does not fit,
        OverloadError when the queue is full or too long for `timeout`, UsageError after `close`. The future raises
        DeadlineError when `timeout` seconds have passed, and what the engine raises.
        """
        if self._process != os.getpid():
            raise UsageError("the batcher's threads are in another process", hint="make a new one after the fork")
        self._refuse_overload(timeout)  # before anything else: in a flood this is what most requests cost
        if type(feed) is not dict or self._check.size(feed) < 0:
            feed = self._check.exact(feed)
        rows, key = self._stacking.rows(feed), self._stacking.key(feed)
        if not 1 <= rows <= self.max_batch:
            raise InputError(f"a request of {rows} rows, expected 1 to {self.max_batch}", hint="split it")
        request = Request(feed, rows, None if timeout is None else due(timeout))
        expire = functools.partial(_expire, request.future)
        with self._changed:
            if self._closing:
                raise UsageError("the batcher is closed", hint="make a new one")
            self._refuse_overload(timeout, rows)
            alarm = None if request.moment is None else WATCH.at(request.moment, expire)
            number = next(self._numbers)
            if self._gathering.add(key, number, request):
                self._changed.notify()
        # It must not know the request: that would keep the arrays for as long as somebody keeps the future.
        request.future.add_done_callback(functools.partial(self._left, number, key, alarm))
        return request.future

    def _refuse_overload(self, timeout: float | None, rows: int = 1) -> None:
        """With the lock for certain, without it for what is hopeless anyway."""
        waiting = self._gathering.waiting
        batches, workers = self._running + self._gathering.batches(rows), len(self._threads)
        wait = self._pace.bound * -(-batches // workers)
        # Whoever finds a worker idle is let in: with no batch there would be no newer measure of what one takes.
        too_late = timeout is not None and batches > workers and wait > timeout
        if not too_late and waiting < self.max_queue:
            return
        with self._changed:
            self._tally["refused"] += 1
        message, hint = f"{waiting} requests are waiting already", "try again later"
        if too_late:
            message, hint = f"{message}, an answer may take {1e3 * wait:.0f} ms", f"{hint}, or allow more time"
        raise OverloadError(message, hint=hint)

    def run(self, feed: Feed, *, timeout: float | None = None) -> Answer:
        """The answer, once it is there. Raises what `submit` and its future raise."""
        future = self.submit(feed, timeout=timeout)
        try:
            return future.result()
        finally:
            future.cancel()  # only an interrupted wait leaves something to cancel

    async def run_async(self, feed: Feed, *, timeout: float | None = None) -> Answer:
        """Like `run`, for asyncio. Cancelling the task takes the request out of the queue."""
        loop = asyncio.get_running_loop()
        mailbox = self._mailboxes.get(loop)
        if mailbox is None:
            mailbox = self._mailboxes[loop] = Mailbox(loop)
        return await mailbox.wait_for(self.submit(feed, timeout=timeout))

    def close(self, *, timeout: float | None = None) -> None:
        """Take no more requests, answer those that wait, and end. May be called twice.

        Those not begun after `timeout` seconds raise OverloadError.
        """
        if self._process != os.getpid():
            return  # neither its threads nor its requests are here
        moment = None if timeout is None else due(timeout)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(None if moment is None else max(0.0, moment - time.monotonic()))
        with self._changed:
            left = list(self._gathering)
        for request in left:
            error = OverloadError("the batcher was closed before the request's turn")
            _settle(functools.partial(request.future.set_exception, error))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _serve(self) -> None:
        while self._serve_one():
            pass

    def _serve_one(self) -> bool:
        """Wait for a batch and answer it; False when there will be no more."""
        if batch := self._next():
            begin = time.monotonic()
            ran = self._run(batch)
            with self._changed:
                self._running -= 1
                if ran:  # what all had given up on took no time, and says nothing of the next
                    self._pace.add(time.monotonic() - begin)
        return bool(batch)

    def _next(self) -> list[Request]:
        with self._changed:
            while self._gathering or not self._closing:
                key, moment = self._gathering.most_urgent(at_once=self._closing)
                if key is not None and moment <= time.monotonic():
                    self._running += 1
                    batch = self._gathering.take(key)
                    if self._gathering:
                        self._changed.notify()  # another worker may have slept through their arrival
                    return batch
                self._changed.wait(None if key is None else moment - time.monotonic())
        return []

    def _run(self, batch: list[Request]) -> bool:
        """Answer or fail every request of the batch; False if nobody waits for any of them."""
        batch = [request for request in batch if not request.future.done()]
        if not batch:
            return False
        feeds = [request.feed for request in batch]
        with self._changed:
            self._tally.update(batches=1, rows=sum(request.rows for request in batch))
        try:
            answers = self._stacking.split(self._answer(batch, self._stacking.stack(feeds)), feeds)
        except Exception as error:
            if isinstance(error, InputError) and len(batch) > 1:  # one of them is at fault, and only that one
                for request in batch:
                    self._run([request])
                return True
            self._finish("failed", [functools.partial(request.future.set_exception, _own(error)) for request in batch])
            return True
        pairs = zip(batch, answers, strict=True)
        self._finish("answered", [functools.partial(request.future.set_result, answer) for request, answer in pairs])
        return True

    def _answer(self, batch: list[Request], feed: Feed) -> Answer:
        moments = [request.moment for request in batch if request.moment is not None]
        if not self._timed or len(moments) < len(batch):
            return self._engine.run(feed)
        # Nobody waits any longer than that.
        remaining = max(max(moments) - time.monotonic(), 1e-3)
        return self._engine.run(feed, timeout=remaining)  # type: ignore[call-arg]

    def _finish(self, outcome: str, settle: list[Callable[[], None]]) -> None:
        """Give a whole batch what became of it; it is counted once, and before anybody can look."""
        with self._changed:
            self._tally[outcome] += len(settle)
        if late := sum(not _settle(one) for one in settle):
            with self._changed:
                self._tally[outcome] -= late

    def _left(self, number: int, key: Hashable, alarm: Alarm | None, future: Future[Answer]) -> None:
        """The request is done with, however that came about: it leaves the queue, and its alarm is switched off."""
        if alarm is not None:
            alarm.cancel()
        outcome = _outcome(future)
        # Whatever was given to the engine has left the queue for good, and its batch has counted it.
        if outcome in ("cancelled", "expired") or self._gathering.holds(key, number):
            with self._changed:
                if self._gathering.remove(key, number):
                    self._changed.notify_all()
                self._tally[outcome] += 1
        if outcome == "cancelled":
            future.set_running_or_notify_cancel()  # what concurrent.futures.wait waits for


def _outcome(future: Future[Answer]) -> str:
    """The name of the count in `BatcherCounts`."""
    if future.cancelled():
        return "cancelled"
    error = future.exception()
    return "answered" if error is None else "expired" if isinstance(error, DeadlineError) else "failed"


def _expire(future: Future[Answer]) -> None:
    error = DeadlineError("the request was not answered in its time", hint="allow more time, or send fewer at once")
    _settle(functools.partial(future.set_exception, error))


def _settle(settle: Callable[[], None]) -> bool:
    """False if it was cancelled, or its deadline passed, just now."""
    try:
        settle()
    except InvalidStateError:
        return False
    return True


def _own(error: Exception) -> Exception:
    """For each request its own: threads that raise one exception at once would mix their tracebacks."""
    if not isinstance(error, EdgeAIError):
        return error
    own = copy.copy(error)
    own.__cause__ = error
    return own
