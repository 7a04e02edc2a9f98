"""How much of the time is left, said while it runs out."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator

from edgeai.progress import SILENT, Advance, Progress


class Countdown:
    """`seconds` from now on; None never ends."""

    def __init__(
        self, seconds: float | None, *, progress: Progress = SILENT, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock, self._progress = clock, progress
        self._begin = clock()
        self.seconds = math.inf if seconds is None else seconds
        self._advance: Advance | None = None
        self._shown = 0

    @property
    def spent(self) -> float:
        return self._clock() - self._begin

    def left(self) -> float:
        """Seconds, never below 0."""
        return max(0.0, self.seconds - self.spent)

    @contextlib.contextmanager
    def shown(self, label: str) -> Iterator[None]:
        """A bar that fills as the time goes, where there is a limit."""
        if self.seconds == math.inf:
            yield
            return
        with self._progress.task(label, max(1, math.ceil(self.seconds))) as self._advance:
            yield
        self._advance = None

    def tick(self) -> None:
        """Move the bar to where the time stands."""
        now = min(int(self.spent), math.ceil(self.seconds) if self.seconds < math.inf else 0)
        if self._advance is not None and now > self._shown:
            self._advance(now - self._shown, note=said(self.left()))
            self._shown = now

    def note(self, text: str) -> None:
        """Log `text`, with the time left."""
        self._progress.log(text if self.seconds == math.inf else f"{text} ({said(self.left())})")


def said(seconds: float) -> str:
    """Time left in words: 1 m 5 s left."""
    whole = round(seconds)
    return f"{whole // 60} m {whole % 60} s left" if whole >= 60 else f"{whole} s left"
