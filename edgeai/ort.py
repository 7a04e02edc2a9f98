"""The one door to ONNX Runtime: no telemetry, and a clear word when it is not installed.

ONNX Runtime's official wheels send usage data unless `ORT_DISABLE_TELEMETRY=1` is set before the import
(its Privacy.md). edgeai sets it unless you have set the variable yourself.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import cast

from edgeai.errors import MissingDependencyError


def onnxruntime() -> ModuleType:
    """The `onnxruntime` module. Raises MissingDependencyError with the command that installs it."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime as module
    except ImportError as error:
        raise MissingDependencyError(
            f"ONNX Runtime cannot be imported: {error}",
            hint="pip install 'edgeai[cpu]', or 'edgeai[gpu]' on a machine with an NVIDIA GPU; never both",
        ) from error
    return cast(ModuleType, module)
