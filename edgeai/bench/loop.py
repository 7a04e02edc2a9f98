"""The timing loop: first run, warm-up, then raw samples of the steady state. Knows nothing of ONNX."""

from __future__ import annotations

import functools
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from edgeai.bench.arrivals import Clock, Sleep, Surrender, call, poisson, serve
from edgeai.bench.energy import Meter
from edgeai.bench.workload import NS, Workload
from edgeai.runtime.engine import Engine
from edgeai.spec import Array, Feed, Signature

_WINDOWS = 3
_ARRIVALS_SEED = 20_240_229


@dataclass(frozen=True)
class WarmUp:
    """`stable` is false where the time ran out before the medians agreed. `median_ns` is the last window's."""

    runs: int
    duration_ns: int
    median_ns: int
    stable: bool


@dataclass(frozen=True)
class Block:
    """Runs that were made in one go. `cpu_ns` is what all threads of the process used meanwhile.

    `wall_ns` is how long the block took, where runs overlap or waited for each other; None where the samples' sum is
    it. `energy_uj`: microjoules, as the meter that the report names counted them. `process` counts the processes that
    a subject was measured in, from 0.
    """

    samples_ns: tuple[int, ...]
    cpu_ns: int
    wall_ns: int | None = None
    energy_uj: int | None = None
    process: int = 0

    @property
    def duration_ns(self) -> int:
        return sum(self.samples_ns) if self.wall_ns is None else self.wall_ns


class Lane(Protocol):
    """One subject on the track, in this process or in another."""

    def warm_up(self) -> WarmUp:
        """Run until the latency is steady."""

    def block(self, runs: int, *, budget_ns: int, discard: int = 0) -> Block:
        """Make `runs` timed runs, fewer if `budget_ns` is used up, at least one; first `discard` untimed ones."""


class Loop:
    """A lane over an engine in this process. Inputs go round: one constant input would flatter the caches.

    `pace` sets the rate of the server scenario, where the workload leaves it open.
    """

    def __init__(
        self,
        engine: Engine,
        feeds: Sequence[Feed],
        *,
        workload: Workload,
        clock: Clock = time.perf_counter_ns,
        cpu_clock: Clock = time.process_time_ns,
        sleep: Sleep = time.sleep,
        meter: Meter | None = None,
    ) -> None:
        self._run: Any = engine.run
        self._feeds: Iterator[Any] = itertools.cycle(feeds)
        if workload.inferences > 1:
            self._run = functools.partial(_query, engine)
            self._feeds = _groups(itertools.cycle(feeds), workload.inferences)
        self._workload = workload
        self._clock, self._cpu_clock, self._sleep = clock, cpu_clock, sleep
        self._meter = meter
        self._rate = workload.rate
        self._surrender: Surrender | None = None
        self._blocks = 0

    def pace(self, rate: float, *, surrender: Surrender | None = None) -> None:
        """From now on queries arrive at `rate` a second; a block that cannot be saved any more ends early."""
        self._rate, self._surrender = rate, surrender

    def first(self) -> int:
        """Nanoseconds of the next run alone; call it before anything else for the cold start."""
        return self._timed(1, budget_ns=0)[0]

    def warm_up(self) -> WarmUp:
        workload, clock = self._workload, self._clock
        begin = clock()
        medians: list[int] = []
        runs = 0
        while True:
            left_ns = int(workload.warmup_max_seconds * NS) - (clock() - begin)
            window = self._timed(workload.warmup_window, budget_ns=left_ns)
            runs += len(window)
            medians.append(sorted(window)[(len(window) - 1) // 2])
            elapsed_ns = clock() - begin
            stable = _agree(medians[-_WINDOWS:], workload.warmup_tolerance)
            if (stable and elapsed_ns >= workload.warmup_min_seconds * NS) or (
                elapsed_ns >= workload.warmup_max_seconds * NS
            ):
                return WarmUp(runs, elapsed_ns, medians[-1], stable)

    def block(self, runs: int, *, budget_ns: int, discard: int = 0) -> Block:
        for feed in itertools.islice(self._feeds, discard):
            self._run(feed)
        workload, wall_ns = self._workload, None
        energy_begin = self._meter.read() if self._meter else None
        cpu_begin, begin = self._cpu_clock(), self._clock()
        if workload.scenario == "server":
            samples = self._served(runs, budget_ns)
            wall_ns = self._clock() - begin
        elif workload.concurrency > 1:
            feeds = list(itertools.islice(self._feeds, runs))
            samples = call(self._run, feeds, clock=self._clock, budget_ns=budget_ns, callers=workload.concurrency)
            wall_ns = self._clock() - begin
        else:
            samples = self._timed(runs, budget_ns=budget_ns)
        cpu_ns = self._cpu_clock() - cpu_begin
        energy_end = self._meter.read() if self._meter else None
        energy_uj = None if energy_begin is None or energy_end is None else energy_end - energy_begin
        return Block(tuple(samples), cpu_ns, wall_ns, energy_uj)

    def _served(self, runs: int, budget_ns: int) -> list[int]:
        assert self._rate is not None
        seed = (_ARRIVALS_SEED, self._blocks)
        self._blocks += 1
        arrivals = poisson(self._rate, runs, seed=seed)
        within = [arrival for arrival in arrivals if arrival < budget_ns] or arrivals[:1]
        return serve(
            self._run, self._feeds, within, clock=self._clock, sleep=self._sleep,
            servers=self._workload.concurrency, surrender=self._surrender,
        )  # fmt: skip

    def _timed(self, runs: int, *, budget_ns: int) -> list[int]:
        run, clock = self._run, self._clock  # local names: what stands in this loop is in every sample
        samples: list[int] = []
        append = samples.append
        deadline = clock() + budget_ns
        for feed in itertools.islice(self._feeds, runs):
            begin = clock()
            run(feed)
            end = clock()
            append(end - begin)
            if end >= deadline:
                break
        return samples


class _Null:
    """Answers nothing: what is left of its latency is the loop's own."""

    signature = Signature((), ())

    def run(self, feed: Feed) -> dict[str, Array]:
        return {}

    def close(self) -> None:
        return


def overhead_ns(runs: int = 20_000) -> int:
    """The median of what the timing loop sees of an engine that does nothing; it stands in every sample."""
    block = Loop(_Null(), [{}], workload=Workload()).block(runs, budget_ns=NS, discard=100)
    return int(statistics.median(block.samples_ns))


def _query(engine: Engine, feeds: Sequence[Feed]) -> None:
    for feed in feeds:
        engine.run(feed)


def _groups(feeds: Iterator[Feed], size: int) -> Iterator[list[Feed]]:
    while True:
        yield list(itertools.islice(feeds, size))


def _agree(medians: Sequence[int], tolerance: float) -> bool:
    return len(medians) == _WINDOWS and max(medians) - min(medians) <= tolerance * min(medians)
