"""What the export tests share."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest

from edgeai.progress import SILENT, Advance


class Log:
    """Keeps what was said aloud."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def task(self, label: str, total: int) -> AbstractContextManager[Advance]:
        return SILENT.task(label, total)

    def log(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture(autouse=True)
def _tracer() -> Iterator[None]:
    """The TorchScript tracer drops Python's trace function, and coverage with it."""
    before = sys.gettrace()
    yield
    sys.settrace(before)
