"""Whose line of code was it? A traceback goes through Python, torch and its tools before and after the user's own."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterable
from pathlib import Path

_TOOLS = ("torch", "numpy", "onnx", "onnxscript", "onnx_ir", "safetensors")


def user_line(error: BaseException) -> str:
    """` (model.py:12)`, the deepest frame that is the user's own; empty if there is none."""
    return deepest((frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__))


def deepest(frames: Iterable[tuple[str, int]]) -> str:
    """` (model.py:12)` of the last of (file, line) that is the user's own; empty if none is."""
    own = [(filename, line) for filename, line in frames if is_users(filename)]
    return f" ({Path(own[-1][0]).name}:{own[-1][1]})" if own else ""


def is_users(filename: str) -> bool:
    """Is this code that a user wrote or chose, not Python, torch and its tools, or edgeai?"""
    path = Path(filename)
    packages = {"site-packages", "dist-packages"} & set(path.parts)
    standard = Path(inspect.__file__).parent in path.parents and not packages
    tools = packages and any(part in _TOOLS for part in path.parts)
    return path.is_file() and not standard and not tools and Path(__file__).parent not in path.parents
