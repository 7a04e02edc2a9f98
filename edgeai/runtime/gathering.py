"""The requests that wait for a batch: which of them go together, which are due first."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import final

from edgeai.spec import Array, Feed

Answer = dict[str, Array]
# Part of the longest wait: whoever sends the next request as soon as it has an answer has done so by then.
_LULL = 0.02


@dataclass(slots=True, eq=False)
class Request:
    """`rows` of `feed`, whose answer is due at `moment` (`time.monotonic`, seconds), if at any."""

    feed: Feed
    rows: int
    moment: float | None
    future: Future[Answer] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class _Group:
    """What can be one batch, by number, in the order of arrival."""

    requests: dict[int, Request] = field(default_factory=dict)
    rows: int = 0

    @property
    def first(self) -> Request:
        return next(iter(self.requests.values()))

    @property
    def last(self) -> Request:
        return next(reversed(self.requests.values()))


@final
class Gathering:
    """Groups of at most `max_batch` rows a batch, each due `delay` seconds after its first request, or sooner.

    Whoever shares it between threads guards it with a lock; `batches` may be read without.
    """

    def __init__(self, max_batch: int, delay: float) -> None:
        self._max_batch, self._delay = max_batch, delay
        self._groups: dict[Hashable, _Group] = {}
        self._rows = 0
        self.waiting = 0

    def __bool__(self) -> bool:
        return bool(self._groups)

    def __iter__(self) -> Iterator[Request]:
        return (request for group in self._groups.values() for request in group.requests.values())

    def batches(self, rows: int) -> int:
        """How many batches there would be at most with a request of `rows` more."""
        return (self._rows + rows) // self._max_batch + max(1, len(self._groups))

    def add(self, key: Hashable, number: int, request: Request) -> bool:
        """Is anything due sooner now?"""
        group = self._groups.setdefault(key, _Group())
        group.requests[number] = request
        group.rows += request.rows
        self._rows += request.rows
        self.waiting += 1
        return len(group.requests) == 1 or group.rows >= self._max_batch

    def holds(self, key: Hashable, number: int) -> bool:
        group = self._groups.get(key)
        return group is not None and number in group.requests

    def remove(self, key: Hashable, number: int) -> bool:
        """Was it there, and is its group gone now?"""
        if not self.holds(key, number):
            return False
        self._pop(key, number)
        return key not in self._groups

    def most_urgent(self, *, at_once: bool) -> tuple[Hashable | None, float]:
        """The group to run next, and when (`time.monotonic`): a full one now, oldest first, or all of them `at_once`.

        The others when their first request has waited long enough, or no other has come for a while.
        """
        now = time.monotonic()
        best: tuple[float, float, Hashable | None] = (0.0, 0.0, None)
        for key, group in self._groups.items():
            arrived = due = group.first.arrived
            if not at_once and group.rows < self._max_batch:
                due = min(arrived + self._delay, group.last.arrived + _LULL * self._delay)
            # Whatever is due already goes by age, so that a busy shape cannot starve the others.
            rank = (max(now, due), arrived)
            if best[2] is None or rank < best[:2]:
                best = (*rank, key)
        return best[2], best[0]

    def take(self, key: Hashable) -> list[Request]:
        """The next batch of that group, oldest first; they wait no longer."""
        batch, rows = list[Request](), 0
        for number, request in tuple(self._groups[key].requests.items()):
            rows += request.rows
            if rows > self._max_batch:
                break
            batch.append(request)
            self._pop(key, number)
        return batch

    def _pop(self, key: Hashable, number: int) -> None:
        group = self._groups[key]
        rows = group.requests.pop(number).rows
        group.rows -= rows
        self._rows -= rows
        self.waiting -= 1
        if not group.requests:
            del self._groups[key]
