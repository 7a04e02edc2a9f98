"""Many runs at once over one set of weights.

ONNX Runtime's C API can share prepacked weights between sessions; its Python API cannot, and weights shared as
initializers are packed again by every session. One session, however, runs in any number of threads at once, each with
its own activations. So that is what is shared here, and what is counted are the runs. Separate processes share weights
through the page cache if the model was made with `edgeai.specialize` for this machine.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

from edgeai.bundle import Bundle
from edgeai.errors import DeadlineError, UsageError
from edgeai.machine import usable_cores
from edgeai.runtime.deadlines import due
from edgeai.runtime.loading import load_with, recorded_settings
from edgeai.runtime.session import Session
from edgeai.runtime.settings import SessionSettings
from edgeai.spec import Array, Feed, Signature


@final
class SessionPool:
    """Implements `Engine`: at most `size` runs at a time, in the threads that ask for them; the others wait their turn.

    `size` is the number of usable cores unless it is given, and each run gets its share of them, whatever number of
    threads a bundle's own settings were measured with; settings that are given say it themselves. The weights, packed
    ones included, are in memory once, however large the pool.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        size: int | None = None,
        ep: str | Sequence[str] = "auto",
        settings: SessionSettings | None = None,
    ) -> None:
        """Open a model or a bundle. Raises what `edgeai.load` raises, and UsageError for a size below 1."""
        cores = usable_cores()
        self.size = cores if size is None else size
        if self.size < 1:
            raise UsageError(f"session pool: size = {size}, must be at least 1")
        # A run's own thread works too: with one core each, no other threads are needed at all.
        threads = (settings and settings.threads) or max(1, cores // self.size)

        def shared(bundle: Bundle | None) -> SessionSettings:
            return replace(settings or recorded_settings(bundle) or SessionSettings(), threads=threads)

        self.session: Session = load_with(path, shared, ep=ep)
        self.signature: Signature = self.session.signature
        self._turns = threading.BoundedSemaphore(self.size)

    def run(self, feed: Feed, *, timeout: float | None = None) -> dict[str, Array]:
        """Wait for a turn, then answer; the wait is part of `timeout` (seconds). Raises what `Session.run` raises."""
        if timeout is None:
            with self._turns:
                return self.session.run(feed)
        moment = due(timeout)
        if not self._turns.acquire(timeout=timeout):
            raise DeadlineError(
                f"{self.session.path}: all {self.size} places of the pool were taken", hint="allow more time"
            )
        try:
            return self.session.run(feed, timeout=max(moment - time.monotonic(), 1e-6))
        finally:
            self._turns.release()

    def map(self, feeds: Iterable[Feed]) -> Iterator[dict[str, Array]]:
        """The answers in the order of the feeds, of which only a few more than the pool's size are taken at a time."""
        with ThreadPoolExecutor(self.size, thread_name_prefix="edgeai-pool") as executor:
            waiting: list[Any] = []
            for feed in feeds:
                waiting.append(executor.submit(self.run, feed))
                if len(waiting) > 2 * self.size:
                    yield waiting.pop(0).result()
            for answer in waiting:
                yield answer.result()

    def close(self) -> None:
        """Close the session; runs under way end as they would. May be called twice."""
        self.session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
