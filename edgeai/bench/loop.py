"""The timing loop: first run, warm-up, then raw samples of the steady state. Knows nothing of ONNX."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from edgeai.bench.workload import NS, Workload
from edgeai.runtime.engine import Engine
from edgeai.spec import Feed

Clock = Callable[[], int]
"""Nanoseconds since any fixed moment; never goes back."""

_WINDOWS = 3


@dataclass(frozen=True)
class WarmUp:
    """`stable` is false where the time ran out before the medians agreed. `median_ns` is the last window's."""

    runs: int
    duration_ns: int
    median_ns: int
    stable: bool


@dataclass(frozen=True)
class Block:
    """Runs that were made one after another. `cpu_ns` is what all threads of the process used meanwhile."""

    samples_ns: tuple[int, ...]
    cpu_ns: int


class Lane(Protocol):
    """One subject on the track, in this process or in another."""

    def warm_up(self) -> WarmUp:
        """Run until the latency is steady."""

    def block(self, runs: int, *, budget_ns: int, discard: int = 0) -> Block:
        """Make `runs` timed runs, fewer if `budget_ns` is used up, at least one; first `discard` untimed ones."""


class Loop:
    """A lane over an engine in this process. Inputs go round: one constant input would flatter the caches."""

    def __init__(
        self,
        engine: Engine,
        feeds: Sequence[Feed],
        *,
        workload: Workload,
        clock: Clock = time.perf_counter_ns,
        cpu_clock: Clock = time.process_time_ns,
    ) -> None:
        self._run = engine.run
        self._feeds = itertools.cycle(feeds)
        self._workload = workload
        self._clock = clock
        self._cpu_clock = cpu_clock

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
        cpu_begin = self._cpu_clock()
        samples = self._timed(runs, budget_ns=budget_ns)
        return Block(tuple(samples), self._cpu_clock() - cpu_begin)

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


def _agree(medians: Sequence[int], tolerance: float) -> bool:
    return len(medians) == _WINDOWS and max(medians) - min(medians) <= tolerance * min(medians)
