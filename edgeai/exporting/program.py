"""Exported programs (`.pt2`): module, inputs and dynamic axes as torch.export recorded them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from edgeai.eager import to_array
from edgeai.errors import SourceError
from edgeai.spec import Array, Axis, Signature, TensorSpec

_UNBOUNDED = 1024  # torch writes "no maximum" as a huge number; nobody proves a billion rows


@dataclass(frozen=True)
class Program:
    module: nn.Module
    signature: Signature
    example: Mapping[str, Array]


def load_program(path: Path) -> Program:
    """Read what `torch.export.save` wrote. Raises SourceError if it is not that, or has inputs that are no tensors."""
    if not path.is_file():
        raise SourceError(f"{path}: no such file")
    try:
        program = torch.export.load(path)
    except Exception as error:  # zip, JSON, pickle and torch's own version errors
        first = (str(error).splitlines() or [""])[0]
        raise SourceError(f"{path} is not an exported program: {type(error).__name__}: {first}") from error
    names = [name for name in program.graph_signature.user_inputs if isinstance(name, str)]
    example = _example(path, program, names)
    fakes = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    axes: dict[str, Axis] = {}
    inputs = []
    for name in names:
        shape = tuple(_axis(size, i, name, program, axes) for i, size in enumerate(fakes[name].shape))
        inputs.append(TensorSpec(name, str(fakes[name].dtype).removeprefix("torch."), shape))
    return Program(program.module(), Signature(tuple(inputs), (), tuple(axes.values())), example)


def _example(path: Path, program: ExportedProgram, names: list[str]) -> dict[str, Array]:
    args, kwargs = program.example_inputs or ((), {})
    values = [*args, *kwargs.values()]
    if len(values) != len(names) or not all(isinstance(value, torch.Tensor) for value in values):
        raise SourceError(
            f"{path}: its inputs are not plain tensors, or it was saved without example inputs",
            hint="export it again with one tensor for each input",
        )
    return {name: to_array(value) for name, value in zip(names, values, strict=True)}


def _axis(size: Any, index: int, name: str, program: ExportedProgram, axes: dict[str, Axis]) -> int | str:
    """A symbolic size becomes an axis: `batch` if it stands first, else named after the input that has it first."""
    if isinstance(size, int):
        return size
    symbol = size.node.expr
    if not symbol.is_Symbol:
        raise SourceError(f"input {name}: axis {index} is {symbol}, which is not a size of its own")
    if str(symbol) not in axes:
        taken = {axis.name for axis in axes.values()}
        shown = "batch" if index == 0 and "batch" not in taken else f"{name}_{index}"
        bounds = program.range_constraints[symbol]
        low, high = int(bounds.lower), min(int(bounds.upper), _UNBOUNDED)
        axes[str(symbol)] = Axis(shown, min(low, high), high)
    return axes[str(symbol)].name
