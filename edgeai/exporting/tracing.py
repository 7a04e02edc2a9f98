"""From a module to an ONNX graph in memory: torch.export first, the TorchScript exporter where that fails."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, NameFixPass
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from edgeai.eager import Call, evaluate, flatten, restore, to_tensor
from edgeai.errors import ExportError
from edgeai.exporting.user_code import is_users, user_line
from edgeai.spec import Feed, Signature

_TORCHSCRIPT_OPSETS = range(7, 21)


@dataclass(frozen=True)
class Trace:
    """A graph, which exporter wrote it, and why torch.export could not (None if it did)."""

    model: ir.Model
    exporter: str
    failure: ExportError | None = None


class _Flat(nn.Module):
    """The module with its inputs in order and its outputs flattened as the eager engine flattens them."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        self._names = tuple(names)

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        return tuple(flatten(Call(self.module, self._names)(values)).values())


def trace(module: nn.Module, signature: Signature, feed: Feed, *, opset: int) -> Trace:
    """Capture `module` in eval mode at `feed`, symbolic where `signature` says so; its modes are restored.

    Raises ExportError: for branching on values it names the user's line; for an axis that the code fixes, the axis;
    for an operator without an ONNX form, the operator.
    """
    flat = _Flat(module, signature.input_names)
    values = tuple(to_tensor(feed[name]) for name in signature.input_names)
    flags = evaluate(flat)
    try:
        traced = Trace(_exported(flat, values, signature, opset), "torch.export")
    except ExportError as error:
        if isinstance(error, _FinalError) or opset not in _TORCHSCRIPT_OPSETS:
            raise ExportError(error.message, hint=error.hint) from error
        traced = Trace(_scripted(flat, values, signature, opset, error), "torchscript", error)
    finally:
        restore(flags)
    written = traced.model.opset_imports.get("", 0)
    if written != opset:
        raise ExportError(f"opset {opset} was asked for, but {written} was written", hint="ask for opset 18 or newer")
    _clean(traced.model, signature)
    return traced


class _FinalError(ExportError):
    """The user's code has to change: another exporter would write a wrong graph."""


def _exported(flat: _Flat, values: tuple[Tensor, ...], signature: Signature, opset: int) -> ir.Model:
    with quiet():
        try:
            program = torch.export.export(flat, values, dynamic_shapes=(_dimensions(signature),), strict=False)
        except Exception as error:  # torch.export lets through whatever tracing ran into
            raise _explain(error, signature) from error
        try:
            converted = torch.onnx.export(
                program, dynamo=True, opset_version=opset, verbose=False,
                input_names=list(signature.input_names), output_names=list(signature.output_names),
            )  # fmt: skip
        except Exception as error:
            raise _unconverted(error, program) from error
    assert converted is not None
    return converted.model


def _dimensions(signature: Signature) -> tuple[dict[int, Any], ...]:
    """One mapping an input: axis index -> torch Dim. A sum of axes is left for torch to derive."""
    dims = {
        axis: torch.export.Dim(axis, min=signature.axis(axis).minimum, max=max(2, signature.axis(axis).maximum))
        for spec in signature.inputs
        for axis in spec.shape
        if isinstance(axis, str) and "+" not in axis
    }
    auto = torch.export.Dim.AUTO
    return tuple(
        {i: dims.get(axis, auto) for i, axis in enumerate(spec.shape) if isinstance(axis, str)}
        for spec in signature.inputs
    )


def _explain(error: Exception, signature: Signature) -> ExportError:
    text, where = str(error), user_line(error)
    first = (text.strip().splitlines() or [""])[0]
    if "data-dependent" in text:
        found = re.search(r'File "([^"]+)", line (\d+)', text)
        where = where or (f" ({Path(found[1]).name}:{found[2]})" if found else "")
        return _FinalError(
            f"the module branches on the values of a tensor{where}, so one trace cannot stand for it",
            hint="write it with torch.where(condition, a, b), or decide it outside of forward",
        )
    if baked := re.search(r"marked (\w+) as dynamic but your code specialized it to be a constant \((\d+)\)", text):
        return ExportError(
            f"axis {baked[1]} is fixed to {baked[2]} by the module's code: it is baked in",
            hint="use tensor.shape in place of a number, or declare the axis as fixed",
        )
    if "Constraints violated" in text:
        fixes = " ".join(line.strip() for line in text.splitlines() if " = " in line)
        return _FinalError(f"the module does not take the declared axes as they are: {fixes or first}",
                      hint="declare the range or the equality that the code needs")  # fmt: skip
    del signature
    return ExportError(f"torch.export cannot capture the module{where}: {type(error).__name__}: {first}")


def _unconverted(error: Exception, program: torch.export.ExportedProgram) -> ExportError:
    text = str(error)
    if missing := re.search(r"OpOverload\(op='([\w.]+)'", text):
        name = missing[1]
        stacks = (node.meta.get("stack_trace") or "" for node in program.graph.nodes if name in str(node.target))
        frames = re.findall(r'File "([^"]+)", line (\d+)', next(stacks, ""))
        where = f" ({Path(frames[-1][0]).name}:{frames[-1][1]})" if frames else ""
        return ExportError(f"operator {name}{where} has no ONNX form", hint="rewrite it with other operators")
    cause = error.__cause__ or error
    first = (str(cause).strip().splitlines() or [""])[0]
    return ExportError(f"torch.onnx cannot convert the module: {type(cause).__name__}: {first}")


def _scripted(
    flat: _Flat, values: tuple[Tensor, ...], signature: Signature, opset: int, failure: ExportError
) -> ir.Model:
    axes = {
        spec.name: {i: axis for i, axis in enumerate(spec.shape) if isinstance(axis, str)}
        for spec in (*signature.inputs, *signature.outputs)
    }
    with quiet(), warnings.catch_warnings(record=True) as warned, tempfile.TemporaryDirectory() as directory:
        warnings.simplefilter("always", TracerWarning)
        path = Path(directory, "traced.onnx")
        try:
            torch.onnx.export(
                flat, values, str(path), dynamo=False, opset_version=opset, dynamic_axes=axes,
                input_names=list(signature.input_names), output_names=list(signature.output_names),
            )  # fmt: skip
        except Exception as error:
            first = (str(error).strip().splitlines() or [""])[0]
            text = f"the TorchScript exporter fails too: {type(error).__name__}: {first}"
            raise ExportError(f"{failure.message}; {text}", hint=failure.hint) from error
        # A tracer warning in a user's code is a branch or a number that was baked in: the very lie that this gate
        # is for. In torch's own modules it is a check of the input.
        tracer = [one for one in warned if issubclass(one.category, TracerWarning) and is_users(one.filename)]
        if baked := [str(one.message) for one in tracer]:
            text = f"the TorchScript exporter bakes in a value: {baked[0].split('. ')[0]}"
            raise ExportError(f"{failure.message}; {text}", hint=failure.hint)
        model = ir.load(path)
        ir.external_data.load_to_model(model)
        return model


def _clean(model: ir.Model, signature: Signature) -> None:
    """Take out what tells about the author's machine, and give axes and weights the names that the user knows."""
    ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    NameFixPass()(model)  # an output may be called like a value inside the graph
    names: dict[str, str] = {}
    for value, spec in zip(model.graph.inputs, signature.inputs, strict=True):
        for found, declared in zip(value.shape or (), spec.shape, strict=True):
            if isinstance(declared, str) and isinstance(found, int):
                raise ExportError(f"axis {declared} of input {spec.name} is fixed to {found}: it is baked in")
            if isinstance(found, ir.SymbolicDim) and isinstance(declared, str) and found.value and "+" not in declared:
                names[found.value] = declared
    for value, spec in zip(model.graph.inputs, signature.inputs, strict=True):
        value.shape = ir.Shape(spec.shape)
    for value in _values(model.graph):
        if value.shape is not None and not value.is_graph_input():
            value.shape = ir.Shape([_renamed(size, names) for size in value.shape])
    for initializer in list(model.graph.initializers.values()):
        name = str(initializer.name)
        short = name.removeprefix("module.")
        if short != name and short not in model.graph.initializers:
            initializer.name = short


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.outputs
    for node in graph.all_nodes():
        yield from node.outputs


def _renamed(size: int | ir.SymbolicDim, names: Mapping[str, str]) -> int | str | None:
    if isinstance(size, int):
        return size
    if size.value is None:
        return None
    text = re.sub(r"[A-Za-z_]\w*", lambda match: names.get(match[0], match[0]), size.value)
    terms = sorted(term.strip() for term in text.split("+"))
    return "+".join(terms) if len(terms) > 1 else text


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what torch and its exporters say out of stdout, stderr, the log and the warnings."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        with contextlib.redirect_stderr(io.StringIO()):
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            try:
                yield
            finally:
                for logger, level in zip(loggers, levels, strict=True):
                    logger.setLevel(level)
