"""The scheduler in a time of its own: the clock moves when somebody sleeps or works, and nobody waits."""

import threading
from collections import deque
from collections.abc import Iterable

import numpy as np
import pytest
from bench_engines import FakeClock
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeai.bench import arrivals
from edgeai.bench.arrivals import Surrender, call, poisson, serve, waiting
from edgeai.bench.workload import NS

GAPS = st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 1000)), min_size=1, max_size=40)


def served(clock: FakeClock, arrivals: list[int], services: Iterable[int], **options: object) -> list[int]:
    costs = iter(services)

    def run(feed: object) -> None:
        clock.now_ns += next(costs)

    def sleep(seconds: float) -> None:
        clock.now_ns += max(1, round(seconds * NS))

    feeds = ({} for _ in arrivals)
    return serve(run, feeds, arrivals, clock=clock, sleep=sleep, **options)  # type: ignore[arg-type]


def naive(arrivals: list[int], services: list[int]) -> list[int]:
    """One server, nanosecond by nanosecond in thought: it starts when it is free and the query is there."""
    latencies, free = [], 0
    for arrival, service in zip(arrivals, services, strict=True):
        start = arrival if arrival > free else free
        free = start + service
        latencies.append(free - arrival)
    return latencies


@settings(deadline=None, max_examples=60)
@given(GAPS, st.integers(0, 10**15))
def test_the_scheduler_is_the_queue_of_the_textbook(gaps: list[tuple[int, int]], start: int) -> None:
    clock = FakeClock()
    clock.now_ns = start
    arrivals = np.cumsum([gap for gap, _ in gaps]).tolist()
    services = [service for _, service in gaps]
    assert served(clock, arrivals, services) == naive(arrivals, services) == waiting(arrivals, services)


@settings(deadline=None, max_examples=60)
@given(GAPS, st.integers(1, 5))
def test_several_servers_answer_no_later_than_one_and_as_events_say(gaps: list[tuple[int, int]], servers: int) -> None:
    arrivals = np.cumsum([gap for gap, _ in gaps]).tolist()
    services = [service for _, service in gaps]
    found = waiting(arrivals, services, servers)
    assert all(one >= many >= own for one, many, own in zip(waiting(arrivals, services), found, services, strict=True))
    # Event by event: never more at work than there are servers, and nobody waits while one is free.
    starts = [arrival + latency - service for arrival, latency, service in zip(arrivals, found, services, strict=True)]
    assert starts == sorted(starts), "first come, first served"
    for i, start in enumerate(starts):
        at_work = sum(starts[j] <= start < starts[j] + services[j] for j in range(i))
        assert at_work < servers
        if start > arrivals[i]:
            before = sum(starts[j] < start <= starts[j] + services[j] for j in range(i))
            assert before >= servers, "it waited although a server was free"


def test_latency_runs_from_the_scheduled_arrival_not_from_the_start_of_service(clock: FakeClock) -> None:
    assert served(clock, [0, 10, 20], [100, 100, 100]) == [100, 190, 280]


def test_a_late_timer_counts_as_latency(clock: FakeClock) -> None:
    def sleep(seconds: float) -> None:
        clock.now_ns += round(seconds * NS) + 7

    def run(feed: object) -> None:
        clock.now_ns += 100

    assert serve(run, [{}], [1000], clock=clock, sleep=sleep) == [107]


@given(st.floats(0.5, 1e6), st.integers(1, 300), st.integers(0, 2**32))
def test_poisson_is_seeded_rises_and_has_the_rate(rate: float, count: int, seed: int) -> None:
    arrivals = poisson(rate, count, seed=(seed,))
    assert arrivals == poisson(rate, count, seed=(seed,)) == sorted(arrivals)
    assert len(arrivals) == count
    assert arrivals[0] >= 0


def test_gaps_are_exponential() -> None:
    gaps = np.diff(poisson(1000.0, 20_000, seed=(1,))) / NS
    assert gaps.mean() == pytest.approx(1e-3, rel=0.03)
    assert gaps.std() == pytest.approx(1e-3, rel=0.05), "an exponential's deviation is its mean"
    assert (gaps > 1e-3).mean() == pytest.approx(np.exp(-1), abs=0.02)


def test_a_hopeless_trial_ends_early(clock: FakeClock) -> None:
    found = served(clock, list(range(0, 1000, 10)), [100] * 100, surrender=Surrender(bound_ns=150, allowed=2))
    assert found == [100, 190, 280, 370], "the third above the bound is one too many"


def test_callers_overlap_and_answer_everything() -> None:
    barrier = threading.Barrier(3)
    seen: list[int] = []

    def run(feed: dict[str, int]) -> None:
        barrier.wait(timeout=20)  # passes only if three runs are under way at once
        seen.append(feed["i"])

    feeds = [{"i": i} for i in range(9)]
    clock = FakeClock()
    latencies = call(run, feeds, clock=clock, budget_ns=NS, callers=3)  # type: ignore[arg-type]
    assert sorted(seen) == list(range(9))
    assert latencies == [0] * 9


def test_servers_overlap() -> None:
    barrier = threading.Barrier(2)

    def run(feed: object) -> None:
        barrier.wait(timeout=20)

    assert len(serve(run, [{}] * 4, [0] * 4, clock=FakeClock(), sleep=lambda s: None, servers=2)) == 4


def test_an_error_in_one_thread_ends_all_and_is_told() -> None:
    calls: list[int] = []

    def run(feed: object) -> None:
        calls.append(1)
        raise ValueError("no such kernel")

    with pytest.raises(ValueError, match="no such kernel"):
        call(run, [{}] * 10_000, clock=FakeClock(), budget_ns=NS, callers=2)
    assert len(calls) < 10_000


def test_ctrl_c_ends_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a signal does to the thread that waits, without the signal, which may come a moment too early."""
    started, over = threading.Event(), threading.Event()
    seen: list[bool] = []

    def interrupted(*arguments: object, **options: object) -> None:
        assert started.wait(timeout=20)
        raise KeyboardInterrupt

    class Feeds(deque[dict[str, int]]):
        def clear(self) -> None:
            super().clear()
            over.set()

    def run(feed: object) -> None:
        started.set()
        seen.append(over.wait(timeout=20))

    monkeypatch.setattr(arrivals, "wait", interrupted)
    monkeypatch.setattr(arrivals, "deque", Feeds)
    with pytest.raises(KeyboardInterrupt):
        call(run, [{}] * 10_000, clock=FakeClock(), budget_ns=NS, callers=2)
    assert 1 <= len(seen) <= 2 and all(seen), "nobody goes on for all that is left"


def test_callers_stop_when_the_time_is_over(clock: FakeClock) -> None:
    def run(feed: object) -> None:
        clock.now_ns += 10

    assert call(run, [{}] * 100, clock=clock, budget_ns=35, callers=1) == [10] * 4
