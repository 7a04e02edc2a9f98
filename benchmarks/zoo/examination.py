"""One architecture through `edgeai.exporting.export`, and the file once more through the independent re-check."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeai.artifact import Artifact
from edgeai.errors import EdgeAIError
from edgeai.exporting import export
from edgeai.progress import Advance
from zoo.catalog import everything
from zoo.recheck import answer, recheck, tensors
from zoo.subject import Architecture, Example

Row = dict[str, Any]


class _Log:
    """The progress of one export, which says how large the largest error was."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @contextlib.contextmanager
    def task(self, label: str, total: int) -> Iterator[Advance]:
        def advance(n: int = 1, *, note: str = "") -> None:
            del n, note

        yield advance

    def log(self, message: str) -> None:
        self.lines.append(message)

    @property
    def error(self) -> float | None:
        found = re.search(r"largest error ([\d.e+-]+)", "\n".join(self.lines))
        return float(found[1]) if found else None


def examine(name: str) -> Row:
    """Everything that the table says about the architecture of this name."""
    torch.set_num_threads(1)
    architecture = next(one for one in everything() if one.name == name)
    subject = architecture.make()
    row = blank(architecture)
    row["parameters"] = sum(parameter.numel() for parameter in subject.module.parameters())
    row["idle"] = idle(architecture.make().module, subject.example)
    log = _Log()
    with tempfile.TemporaryDirectory(prefix="edgeai-zoo-") as directory:
        path = Path(directory, f"{name}.onnx")
        start = time.perf_counter()
        try:
            artifact = export(subject.module, subject.example, out=path, dynamic=subject.dynamic, progress=log)
        except EdgeAIError as error:
            reason = error.message.removeprefix(f"{path} is not written: ")
            return row | {"reason": reason, "seconds": time.perf_counter() - start}
        row |= {"seconds": time.perf_counter() - start, "verdict": "verified", "error": log.error}
        row |= _lineage(artifact) | {"file_bytes": path.stat().st_size}
        # A module made anew: what export did to the first one cannot make the two agree.
        found = recheck(path, partial(answer, architecture.make().module), subject.example, subject.dynamic)
    return row | {"rechecked": dataclasses.asdict(found) | {"right": found.right}}


def blank(architecture: Architecture, reason: str = "") -> Row:
    return {
        "name": architecture.name, "style": architecture.style, "paper": architecture.paper, "parameters": None,
        "idle": [], "exporter": None, "fallback": None, "opset": None, "verdict": "not written", "error": None,
        "feeds": None, "axes": {}, "seconds": None, "file_bytes": None, "reason": reason, "rechecked": None,
    }  # fmt: skip


def _lineage(artifact: Artifact) -> Row:
    options = artifact.lineage[-1].options
    row: Row = {"exporter": options["exporter"], "fallback": options.get("reason"), "opset": options["opset"]}
    axes = {name: list(sizes) for name, sizes in options["verified"]["axes"].items()}
    return row | {"feeds": options["verified"]["feeds"], "axes": axes}


def idle(module: nn.Module, example: Example) -> list[str]:
    """Parameters that do not move the answer at all: a graph that lost them would look right."""
    generator = torch.Generator().manual_seed(1)
    outputs = [tensor for tensor in tensors(module(**example)) if tensor.dtype.is_floating_point]
    sum((tensor * torch.randn(tensor.shape, generator=generator)).sum() for tensor in outputs).backward()
    learned = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    return [name for name, parameter in learned if parameter.grad is None or not parameter.grad.any()]
