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
    return Program(_Called(program), Signature(tuple(inputs), (), tuple(axes.values())), example)


class _Called(nn.Module):
    """A program takes its inputs exactly as they were given at export: the first by position, the rest by keyword."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        args, kwargs = program.example_inputs or ((), {})
        self.program = program.module()
        self._positional, self._keywords = len(args), tuple(kwargs)

    def forward(self, *values: torch.Tensor) -> Any:
        keywords = dict(zip(self._keywords, values[self._positional :], strict=True))
        return self.program(*values[: self._positional], **keywords)


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
    """A symbolic size becomes an axis: `batch` if it stands first, else named after the input that has it first.

    torch writes the multiples of 32 as `32*s0`. Raises SourceError for any other expression, and for two multiples of
    one symbol: sizes that depend on each other are not axes of their own.
    """
    if isinstance(size, int):
        return size
    expression = size.node.expr
    factor, symbol = expression.as_coeff_Mul()
    known = axes.get(str(symbol))
    if not symbol.is_Symbol or not factor.is_Integer or (known is not None and known.multiple != factor):
        raise SourceError(f"input {name}: axis {index} is {expression}, which is not a size of its own")
    if known is None:
        taken = {axis.name for axis in axes.values()}
        shown = "batch" if index == 0 and "batch" not in taken else f"{name}_{index}"
        # The range of the root starts at 2 where torch has refused to trace a 1; that of the product is the user's.
        product = program.range_constraints.get(expression)
        bounds, unit = (program.range_constraints[symbol], int(factor)) if product is None else (product, 1)
        low, high = unit * int(bounds.lower), unit * min(int(bounds.upper), _UNBOUNDED)
        known = axes[str(symbol)] = Axis(shown, min(low, high), high, int(factor))
    return known.name
