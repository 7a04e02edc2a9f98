"""Who sends when: callers that wait for their answers, and arrivals that wait for nobody."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from edgeai.bench.workload import NS
from edgeai.spec import Feed

Clock = Callable[[], int]
"""Nanoseconds since any fixed moment; never goes back."""

Sleep = Callable[[float], None]
Run = Callable[[Feed], object]
T = TypeVar("T")


@dataclass(frozen=True)
class Surrender:
    """A trial is over once more than `allowed` latencies are above `bound_ns`: nothing can save it."""

    bound_ns: int
    allowed: int


def poisson(rate: float, count: int, *, seed: Sequence[int]) -> list[int]:
    """When `count` queries arrive, in ns from the start: gaps are exponential with mean 1 / `rate` seconds."""
    gaps = np.random.default_rng(seed).exponential(NS / rate, count)
    arrivals: list[int] = np.cumsum(gaps).astype(np.int64).tolist()
    return arrivals


def waiting(arrivals_ns: Sequence[int], service_ns: Sequence[int], servers: int = 1) -> list[int]:
    """What the latencies (from arrival, ns) would be: first come, first served, by whichever server is free first."""
    free = [0] * servers
    latencies = []
    for arrival, service in zip(arrivals_ns, service_ns, strict=True):
        server = min(range(servers), key=free.__getitem__)
        free[server] = max(free[server], arrival) + service
        latencies.append(free[server] - arrival)
    return latencies


def serve(
    run: Run,
    feeds: Iterable[Feed],
    arrivals_ns: Sequence[int],
    *,
    clock: Clock,
    sleep: Sleep,
    servers: int = 1,
    surrender: Surrender | None = None,
) -> list[int]:
    """Answer every arrival in its order; latencies in ns from when it was due, so that a queue shows.

    A timer that wakes too late counts as latency, as it would in a server. Raises what `run` raises.
    """
    queue = deque(zip(arrivals_ns, feeds, strict=False))
    latencies: list[int] = []
    late: list[int] = []
    begin = clock()

    def work() -> None:
        while (query := _next(queue)) is not None:
            due = begin + query[0]
            while (left := due - clock()) > 0:
                sleep(left / NS)
            run(query[1])
            latency = clock() - due
            latencies.append(latency)
            if surrender is not None and latency > surrender.bound_ns:
                late.append(latency)
                if len(late) > surrender.allowed:
                    queue.clear()

    _together(work, queue, servers)
    return latencies


def call(run: Run, feeds: Sequence[Feed], *, clock: Clock, budget_ns: int, callers: int) -> list[int]:
    """Several callers, each of whom sends the next feed when the last one has answered; latencies in ns."""
    queue = deque(feeds)
    latencies: list[int] = []
    deadline = clock() + budget_ns

    def work() -> None:
        while (feed := _next(queue)) is not None:
            begin = clock()
            run(feed)
            end = clock()
            latencies.append(end - begin)
            if end >= deadline:
                queue.clear()

    _together(work, queue, callers)
    return latencies


def _together(work: Callable[[], None], queue: deque[T], count: int) -> None:
    """`work` in `count` threads; an error in one, or Ctrl-C here, empties the queue for all and is raised here."""
    if count == 1:
        work()
        return
    with ThreadPoolExecutor(count) as pool:
        try:
            tasks = [pool.submit(work) for _ in range(count)]
            wait(tasks, return_when=FIRST_EXCEPTION)
        finally:
            queue.clear()
        for task in tasks:
            task.result()


def _next(queue: deque[T]) -> T | None:
    try:  # popleft is atomic; a look before it would not be
        return queue.popleft()
    except IndexError:
        return None
