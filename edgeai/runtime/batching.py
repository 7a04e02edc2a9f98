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
from collections import Counter
from collections.abc import Callable, Hashable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeVar, final

from edgeai.errors import DeadlineError, EdgeAIError, InputError, OverloadError, UsageError
from edgeai.runtime.deadlines import WATCH, Alarm, due
from edgeai.runtime.engine import Engine
from edgeai.runtime.feeds import FeedCheck
from edgeai.runtime.stacking import Padding, Stacking
from edgeai.spec import Array, Feed, Signature

Answer = dict[str, Array]
T = TypeVar("T")


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


@dataclass(slots=True, eq=False)
class _Request:
    feed: Feed
    rows: int
    moment: float | None
    future: Future[Answer] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)


@final
class Batcher:
    """Implements `Engine` over another engine, for many threads or tasks at once.

    A request is a feed of one or more rows. Requests with the same shapes, or the same after `padding`, are run as one
    batch of at most `max_batch` rows, as soon as there are so many or the oldest has waited `max_delay_ms`. While the
    engine is busy, requests gather. More than `max_queue` waiting requests are not taken: that is said at once.
    `workers` is how many batches run at a time. The engine's rows must not depend on each other (`edgeai.verify` looks
    at that). The batcher does not close its engine.

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
        workers: int = 1,
    ) -> None:
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
        self._delay = max_delay_ms / 1e3
        self._check = FeedCheck(engine.signature)
        self._stacking = Stacking(engine.signature, padding)
        self._changed = threading.Condition()
        self._groups: dict[Hashable, dict[int, _Request]] = {}
        self._numbers = itertools.count()
        self._waiting = 0
        self._tally: Counter[str] = Counter()
        self._closing = False
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
        return self._waiting

    def submit(self, feed: Feed, *, timeout: float | None = None) -> Future[Answer]:
        """The answer to come. Cancelling it always succeeds before the answer is there, and takes it out of the queue.

        The arrays must stay as they are until then. Raises at once: InputError for a feed that does not fit,
        OverloadError when the queue is full, UsageError after `close`. The future raises DeadlineError when `timeout`
        seconds have passed, and what the engine raises.
        """
        if type(feed) is not dict or self._check.size(feed) < 0:
            feed = self._check.exact(feed)
        if self._process != os.getpid():
            raise UsageError("the batcher's threads are in another process", hint="make a new one after the fork")
        rows, key = self._stacking.rows(feed), self._stacking.key(feed)
        if not 1 <= rows <= self.max_batch:
            raise InputError(f"a request of {rows} rows, expected 1 to {self.max_batch}", hint="split it")
        request = _Request(feed, rows, None if timeout is None else due(timeout))
        with self._changed:
            if self._closing:
                raise UsageError("the batcher is closed", hint="make a new one")
            if self._waiting >= self.max_queue:
                self._tally["refused"] += 1
                raise OverloadError(f"{self._waiting} requests are waiting already", hint="try again later")
            expire = functools.partial(_expire, request.future)
            alarm = None if request.moment is None else WATCH.at(request.moment, expire)
            number = next(self._numbers)
            group = self._groups.setdefault(key, {})
            group[number] = request
            self._waiting += 1
            if len(group) == 1 or _rows(group) >= self.max_batch:
                self._changed.notify()  # otherwise nothing is due any sooner
        # It must not know the request: that would keep the arrays for as long as somebody keeps the future.
        request.future.add_done_callback(functools.partial(self._left, number, key, alarm))
        return request.future

    def run(self, feed: Feed, *, timeout: float | None = None) -> Answer:
        """The answer, once it is there. Raises what `submit` and its future raise."""
        future = self.submit(feed, timeout=timeout)
        try:
            return future.result()
        finally:
            future.cancel()  # only an interrupted wait leaves something to cancel

    async def run_async(self, feed: Feed, *, timeout: float | None = None) -> Answer:
        """Like `run`, for asyncio. Cancelling the task takes the request out of the queue."""
        return await asyncio.wrap_future(self.submit(feed, timeout=timeout))

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
            left = [request for group in self._groups.values() for request in group.values()]
        for request in left:
            _settle(request.future.set_exception, OverloadError("the batcher was closed before the request's turn"))

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
            self._run(batch)
        return bool(batch)

    def _next(self) -> list[_Request]:
        with self._changed:
            while self._groups or not self._closing:
                key, moment = self._most_urgent()
                if key is not None and moment <= time.monotonic():
                    return self._take(key)
                self._changed.wait(None if key is None else moment - time.monotonic())
        return []

    def _most_urgent(self) -> tuple[Hashable | None, float]:
        """The group to run next, and when: a full one at once, oldest first."""
        now = time.monotonic()
        best: tuple[float, float, Hashable | None] = (0.0, 0.0, None)
        for key, group in self._groups.items():
            arrived = next(iter(group.values())).arrived
            full = self._closing or _rows(group) >= self.max_batch
            # Whatever is due already goes by age, so that a busy shape cannot starve the others.
            rank = (max(now, arrived if full else arrived + self._delay), arrived)
            if best[2] is None or rank < best[:2]:
                best = (*rank, key)
        return best[2], best[0]

    def _take(self, key: Hashable) -> list[_Request]:
        group, batch, rows = self._groups[key], list[_Request](), 0
        for number, request in tuple(group.items()):
            rows += request.rows
            if rows > self.max_batch:
                break
            batch.append(group.pop(number))
        if not group:
            del self._groups[key]
        self._waiting -= len(batch)
        if self._groups:
            self._changed.notify()  # another worker may have slept through their arrival
        return batch

    def _run(self, batch: list[_Request]) -> None:
        """Answer or fail every request of the batch."""
        batch = [request for request in batch if not request.future.done()]
        if not batch:
            return
        feeds = [request.feed for request in batch]
        with self._changed:
            self._tally.update(batches=1, rows=sum(request.rows for request in batch))
        try:
            answers = self._stacking.split(self._answer(batch, self._stacking.stack(feeds)), feeds)
        except Exception as error:
            if isinstance(error, InputError) and len(batch) > 1:  # one of them is at fault, and only that one
                for request in batch:
                    self._run([request])
                return
            for request in batch:
                _settle(request.future.set_exception, _own(error))
            return
        for request, answer in zip(batch, answers, strict=True):
            _settle(request.future.set_result, answer)

    def _answer(self, batch: list[_Request], feed: Feed) -> Answer:
        moments = [request.moment for request in batch if request.moment is not None]
        if not self._timed or len(moments) < len(batch):
            return self._engine.run(feed)
        # Nobody waits any longer than that.
        remaining = max(max(moments) - time.monotonic(), 1e-3)
        return self._engine.run(feed, timeout=remaining)  # type: ignore[call-arg]

    def _left(self, number: int, key: Hashable, alarm: Alarm | None, future: Future[Answer]) -> None:
        """The request is done with, however that came about: it leaves the queue, and its alarm is switched off."""
        with self._changed:
            group = self._groups.get(key, {})
            if group.pop(number, None) is not None:
                self._waiting -= 1
                if not group:
                    del self._groups[key]
                    self._changed.notify_all()
            self._tally[_outcome(future)] += 1
        if alarm is not None:
            alarm.cancel()
        if future.cancelled():
            future.set_running_or_notify_cancel()  # what concurrent.futures.wait waits for


def _rows(group: dict[int, _Request]) -> int:
    return sum(request.rows for request in group.values())


def _outcome(future: Future[Answer]) -> str:
    """The name of the count in `BatcherCounts`."""
    if future.cancelled():
        return "cancelled"
    error = future.exception()
    return "answered" if error is None else "expired" if isinstance(error, DeadlineError) else "failed"


def _expire(future: Future[Answer]) -> None:
    error = DeadlineError("the request was not answered in its time", hint="allow more time, or send fewer at once")
    _settle(future.set_exception, error)


def _settle(settle: Callable[[T], None], value: T) -> None:
    try:
        settle(value)
    except InvalidStateError:
        return  # it was cancelled, or its deadline passed, just now


def _own(error: Exception) -> Exception:
    """For each request its own: threads that raise one exception at once would mix their tracebacks."""
    if not isinstance(error, EdgeAIError):
        return error
    own = copy.copy(error)
    own.__cause__ = error
    return own
