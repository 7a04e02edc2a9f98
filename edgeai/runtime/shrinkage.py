"""When does the arena give memory back? It keeps what the largest run needed, which on a device is not its to keep.

Freeing after every run would make the next one ask the system again, so it happens when a burst is over.
"""

from __future__ import annotations

import sys
from typing import Any, final

from edgeai.machine import machine
from edgeai.ort import onnxruntime
from edgeai.runtime.settings import SessionSettings

_CALM_RUNS = 16  # so many runs of at most half the size, one after the other, and the burst is over
_KEY, _CPU_ARENA = "memory.enable_memory_arena_shrinkage", "cpu:0"
_WITH_ARENA = ("x86_64", "AMD64", "aarch64", "arm64")  # cpu_execution_provider.h; asked elsewhere, a run would fail


@final
class Shrinkage:
    """Watches the sizes of the inputs. Threads may share it: a lost count makes it a run late, nothing else."""

    def __init__(self, settings: SessionSettings) -> None:
        arena = settings.arena and machine().architecture in _WITH_ARENA and sys.maxsize > 1 << 32
        self._policy = settings.shrink if arena else "never"
        self._half_bytes = -1
        self._calm = 0

    def due(self, size_bytes: int) -> bool:
        """Should the run of inputs of this size give back what it does not need?"""
        if size_bytes > self._half_bytes:
            if size_bytes > 2 * self._half_bytes:
                self._half_bytes = size_bytes // 2
            self._calm = 0
            return self._policy == "always"
        self._calm += 1
        if self._calm < _CALM_RUNS:
            return self._policy == "always"
        self._half_bytes, self._calm = size_bytes // 2, 0
        return self._policy != "never"


def run_options() -> Any:
    """A new `onnxruntime.RunOptions`; log messages are off, errors are exceptions."""
    options = onnxruntime().RunOptions()
    options.log_severity_level = 4
    return options


def shrinking(options: Any = None) -> Any:
    """The same options, or new ones, for a run after which the arena gives back what it does not need."""
    options = run_options() if options is None else options
    options.add_run_config_entry(_KEY, _CPU_ARENA)
    return options
