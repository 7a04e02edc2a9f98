"""Engines for the tests of the harness: with planted times, and with planted misbehaviour."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from edgeai.errors import ProviderError
from edgeai.spec import Array, Feed, Signature, TensorSpec


class FakeClock:
    """Time passes when somebody says so."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        return self.now_ns


class Engine:
    """Does `work` on every run and remembers what it was given."""

    def __init__(self, work: Callable[[], Any] = lambda: None) -> None:
        self._work = work
        self.seen: list[float] = []
        self.closed = False

    @property
    def signature(self) -> Signature:
        return Signature((TensorSpec("x", "float32", ("batch", 2)),), (TensorSpec("y", "float32", ("batch", 2)),))

    def run(self, feed: Feed) -> dict[str, Array]:
        self.signature.check(feed)
        self._work()
        self.seen.append(float(feed["x"].flat[0]))
        return {"y": feed["x"] * 2}

    def close(self) -> None:
        self.closed = True


def timed(clock: FakeClock, costs_ns: Iterable[int]) -> Engine:
    """Each run takes the next of `costs_ns`; the last one for ever."""

    def endless() -> Iterator[int]:
        cost = 0
        for cost in costs_ns:
            yield cost
        while True:
            yield cost

    costs = endless()

    def pass_time() -> None:
        clock.now_ns += next(costs)

    return Engine(pass_time)


def sleeping(seconds: float = 0.0) -> Engine:
    return Engine(lambda: time.sleep(seconds))


def wrong() -> Engine:
    """Answers something else."""
    engine = Engine()
    right = engine.run
    engine.run = lambda feed: {"y": right(feed)["y"] ** 2}  # type: ignore[method-assign]
    return engine


def spinning(seconds: float) -> Engine:
    """Uses the CPU: process time, unlike sleep, is the engine's own whatever else the machine does."""

    def spin() -> None:
        end = time.process_time() + seconds
        while time.process_time() < end:
            continue

    return Engine(spin)


def allocating(size_bytes: int) -> Engine:
    """Holds that many bytes, and has touched them."""
    engine = Engine()
    engine.held = np.ones(size_bytes, dtype=np.uint8)  # type: ignore[attr-defined]
    return engine


def talkative() -> Engine:
    """Prints where the protocol runs, and reads where the commands come from."""
    print("banner of a library")
    os.write(1, b'{"reply": "from C"}\n')
    sys.stdin.read()
    return Engine(lambda: os.write(1, b"chatter\n"))


def broken() -> Engine:
    sys.stderr.write("loading weights\n")
    raise ValueError("no such kernel: 42")


def refusing() -> Engine:
    raise ProviderError("cuda does not run here", hint="use cpu")


def not_an_engine() -> object:
    return object()


def dying(after_runs: int) -> Engine:
    """Is killed, as by the kernel when memory runs out, in the run after `after_runs`."""
    runs = iter(range(after_runs))

    def work() -> None:
        if next(runs, None) is None:
            sys.stderr.write("allocating 12 GiB\n\n")
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    return Engine(work)


def quitting() -> Engine:
    os._exit(7)


def hanging(fifo: str) -> Engine:
    """Answers once and never again; says through `fifo` when it hangs."""
    first = iter([True])

    def work() -> None:
        if next(first, None) is None:
            with open(fifo, "w") as stream:
                stream.write("now")
            time.sleep(600)

    return Engine(work)


def unclosable() -> Engine:
    engine = Engine(lambda: time.sleep(0.0005))

    def close() -> None:
        raise RuntimeError("double free")

    engine.close = close  # type: ignore[method-assign]
    return engine


PRELOADED: list[str] = []


def preload() -> None:
    PRELOADED.append("yes")
    time.sleep(0.05)


def preloaded() -> Engine:
    assert PRELOADED == ["yes"]
    return Engine()
