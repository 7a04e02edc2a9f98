"""PyTorch, eager and through `torch.compile`.

The module comes as an exported program of fixed sizes, without the checks of its inputs: that is eager PyTorch with
the least Python around it, so what is measured here is no slower than the module as it was written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from protocol import Feed, Run, serve


def eager(source: Path, *, order: list[str], threads: int | None = None) -> Run:
    """With PyTorch's own number of threads, or with `threads`."""
    if threads is not None:
        torch.set_num_threads(threads)
    return _answering(_module(source), order)


def compiled(source: Path, *, order: list[str]) -> Run:
    return _answering(torch.compile(_module(source)), order)


def _module(source: Path) -> Any:
    module = torch.export.load(source).module(check_guards=False)
    module._forward_pre_hooks.clear()
    module._forward_pre_hooks_with_kwargs.clear()
    return module


def _answering(module: Any, order: list[str]) -> Run:
    """`order`: the inputs in the order of the module's arguments."""

    @torch.inference_mode()
    def run(feed: Feed) -> np.ndarray:
        answer = module(*(torch.from_numpy(feed[name]) for name in order))
        while not isinstance(answer, torch.Tensor):
            answer = next(iter(answer.values() if isinstance(answer, dict) else answer))
        array: np.ndarray = answer.numpy()
        return array

    return run


if __name__ == "__main__":
    serve(recipes={}, forms={"eager": eager, "compiled": compiled}, packages=("torch", "numpy"))
