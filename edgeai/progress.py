"""How long work tells that it is alive, without knowing who listens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol


class Advance(Protocol):
    """Call after each unit of work; `note` replaces the text beside the bar."""

    def __call__(self, n: int = 1, *, note: str = "") -> None: ...


class Progress(Protocol):
    """The command line shows a bar with the time left; a library call is silent unless it is given one."""

    def task(self, label: str, total: int) -> contextlib.AbstractContextManager[Advance]:
        """Announce `total` units of work."""

    def log(self, message: str) -> None:
        """Say one thing that a person should read: a decision, a refusal, a warning."""


class _Silent:
    @contextlib.contextmanager
    def task(self, label: str, total: int) -> Iterator[Advance]:
        def advance(n: int = 1, *, note: str = "") -> None:
            del n, note

        yield advance

    def log(self, message: str) -> None:
        del message


SILENT: Progress = _Silent()
