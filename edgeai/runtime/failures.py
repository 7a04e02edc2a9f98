"""What ONNX Runtime's exceptions mean: its own classes share no base below Exception, and say much in many lines."""

from __future__ import annotations

from pathlib import Path

from edgeai.errors import EdgeAIError, InputError, ProviderError, ResourceLimitError
from edgeai.runtime.opening import first_line

_NO_MEMORY = ("Failed to allocate memory", "bad_alloc", "out of memory", "ALLOC_FAILED")  # the last two are CUDA's


def explained(error: Exception, path: Path) -> EdgeAIError:
    """The typed error for a run of the model at `path` that failed."""
    text = first_line(error)
    if isinstance(error, MemoryError) or any(sign in text for sign in _NO_MEMORY):
        return ResourceLimitError(f"{path}: out of memory: {text}", hint="use a smaller batch or shorter inputs")
    if type(error).__name__ == "EPFail":
        return ProviderError(f"{path}: the execution provider failed: {text}")
    return InputError(f"{path}: the model cannot compute this input: {text}")
