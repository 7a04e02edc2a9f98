"""From a module to an ONNX graph in memory, by way of torch.export or of the TorchScript exporter."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, NameFixPass
from torch import Tensor, nn
from torch.nn.modules import transformer

from edgeai.eager import Call, evaluate, flatten, restore, to_tensor
from edgeai.errors import ExportError
from edgeai.exporting import torchscript
from edgeai.exporting.conversion import at_opset
from edgeai.exporting.guards import fixing_of
from edgeai.exporting.inputs import Dynamic
from edgeai.exporting.silence import quiet
from edgeai.frames import deepest, user_line
from edgeai.spec import Axis, Feed, Signature

TORCH_EXPORT, TORCHSCRIPT = "torch.export", "TorchScript"
_OPSETS = range(18, 26)  # what torch.export's converter writes itself; at 26 it leaves some models at 18


@dataclass(frozen=True)
class Trace:
    """A graph, and what torch.export could not prove of the module over the declared axes (None: all is proven)."""

    model: ir.Model
    unproven: ExportError | None = None


class _Flat(nn.Module):
    """The module with its inputs in order and its outputs flattened as the eager engine flattens them."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        self._names = tuple(names)

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        return tuple(flatten(Call(self.module, self._names)(values)).values())


def trace(module: nn.Module, signature: Signature, feed: Feed, *, opset: int, exporter: str = TORCH_EXPORT) -> Trace:
    """Capture `module` in eval mode at `feed`, symbolic where `signature` says so; its modes are restored.

    An opset that `exporter` does not write is reached by ONNX's version converter. Raises ExportError: for an axis
    that the code fixes it names the axis, for an operator without an ONNX form the operator; FinalError if the
    module's code has to change.
    """
    flat = _Flat(module, signature.input_names)
    values = tuple(to_tensor(feed[name]) for name in signature.input_names)
    flags = evaluate(flat)
    try:
        if exporter == TORCH_EXPORT:
            traced = _exported(flat, values, signature, opset)
        else:
            traced = Trace(torchscript.script(flat, values, signature, opset))
    finally:
        restore(flags)
    model = at_opset(traced.model, opset, f"what {exporter} writes")
    _clean(model, signature)
    return dataclasses.replace(traced, model=model)


class FinalError(ExportError):
    """The user's code has to change: another exporter would write a wrong graph."""


def _exported(flat: _Flat, values: tuple[Tensor, ...], signature: Signature, opset: int) -> Trace:
    with quiet(), _masks_as_they_are():
        program, unproven = _program(flat, _enlarged(values, signature), signature)
        _copy_where_contiguous(program)
        try:
            converted = torch.onnx.export(
                program, dynamo=True, opset_version=min(max(opset, _OPSETS[0]), _OPSETS[-1]), verbose=False,
                input_names=list(signature.input_names), output_names=list(signature.output_names),
            )  # fmt: skip
        except Exception as error:
            raise _unconverted(error) from error
    assert converted is not None
    return Trace(converted.model, unproven)


def _program(
    flat: _Flat, values: tuple[Tensor, ...], signature: Signature
) -> tuple[torch.export.ExportedProgram, ExportError | None]:
    """The program, and the conditions on sizes that torch.export could not prove: it then left them unchecked.

    Pooling with ceil_mode is such a case: its guard holds at every size, but not in torch's arithmetic. Where running
    the code makes a size a number (`int(x.shape[1])`), reading its bytecode (`strict`) may keep it a symbol.
    """

    def capture(*, deferred: bool = False, strict: bool = False) -> torch.export.ExportedProgram:
        return torch.export.export(
            flat, values, dynamic_shapes=(_dimensions(signature),), strict=strict,
            prefer_deferred_runtime_asserts_over_guards=deferred,
        )  # fmt: skip

    try:
        return capture(), None
    except Exception as error:  # torch.export lets through whatever tracing ran into
        first, text = error, str(error)
    unproven = _explain(first, signature, capture)
    if "your code specialized it" in text:
        with contextlib.suppress(Exception):  # whatever is wrong with this way, the first error is the one to tell
            return capture(strict=True), None
    if "Constraints violated" in text:
        with contextlib.suppress(Exception):
            return capture(deferred=True), unproven
    raise unproven from first


def _copy_where_contiguous(program: torch.export.ExportedProgram) -> None:
    """What attention answers lies otherwise in memory once it is decomposed (T5), so `contiguous` must not be dropped
    for a tensor that happens to be so before.
    """
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.contiguous.default:
            node.target, node.kwargs = torch.ops.aten.clone.default, {"memory_format": torch.contiguous_format}


@contextlib.contextmanager
def _masks_as_they_are() -> Iterator[None]:
    """Keep torch.nn.Transformer from comparing its mask with a causal one, which is a branch on values.

    The comparison only chooses between kernels that answer alike.
    """
    asked = transformer._detect_is_causal_mask

    def told(mask: Tensor | None, is_causal: bool | None = None, size: int | None = None) -> bool:
        del mask, size
        return is_causal is True

    transformer._detect_is_causal_mask = told
    try:
        yield
    finally:
        transformer._detect_is_causal_mask = asked


def _dimensions(signature: Signature) -> tuple[dict[int, Any], ...]:
    """One mapping an input: axis index -> torch Dim. A sum of axes is left for torch to derive."""
    dims = {
        axis: _dimension(signature.axis(axis))
        for spec in signature.inputs
        for axis in spec.shape
        if isinstance(axis, str) and "+" not in axis
    }
    auto = torch.export.Dim.AUTO
    return tuple(
        {i: dims.get(axis, auto) for i, axis in enumerate(spec.shape) if isinstance(axis, str)}
        for spec in signature.inputs
    )


def _dimension(axis: Axis) -> Any:
    multiple = axis.multiple
    name = axis.name if multiple == 1 else f"_{axis.name}"
    root = torch.export.Dim(name, min=axis.minimum // multiple, max=max(2, axis.maximum // multiple))
    return root if multiple == 1 else multiple * root


def _enlarged(values: Sequence[Tensor], signature: Signature) -> tuple[Tensor, ...]:
    """`values` with every axis that stands at its multiple doubled: torch takes the 1 in 1 * 32 for a constant."""
    found = []
    for spec, value in zip(signature.inputs, values, strict=True):
        for index, size in enumerate(spec.shape):
            multiple = signature.axis(size).multiple if isinstance(size, str) else 1
            if multiple > 1 and value.shape[index] == multiple:
                value = torch.cat([value, value], dim=index)
        found.append(value)
    return tuple(found)


def _explain(error: Exception, signature: Signature, capture: Callable[[], object]) -> ExportError:
    text, where = str(error), user_line(error)
    first = (text.strip().splitlines() or [""])[0]
    if "data-dependent" in text:
        found = re.search(r'File "([^"]+)", line (\d+)', text)
        where = where or (f" ({Path(found[1]).name}:{found[2]})" if found else "")
        return FinalError(
            f"the module branches on the values of a tensor{where}, so one trace cannot stand for it",
            hint="write it with torch.where(condition, a, b), or decide it outside of forward",
        )
    if baked := re.search(
        r"marked (?:\d+\*_)?(\w+) as dynamic but your code specialized it to be a constant \((\d+)\)", text
    ):
        fixing = fixing_of(baked[1], capture, signature)
        place = f" (axis {fixing.index} of input {fixing.input})" if fixing else ""
        return ExportError(
            f"axis {baked[1]}{place} is fixed to {baked[2]} by the module's code{fixing.where if fixing else ''}: "
            "it is baked in",
            hint="use tensor.shape in place of a number, or declare the axis as fixed",
        )
    if "Constraints violated" in text:
        suggested = text.rpartition("Suggested fixes:")[2] if "Suggested fixes:" in text else ""
        fixes = ", ".join(line.strip() for line in suggested.splitlines() if " = " in line)
        # A number in place of an axis is torch.export's own doing (it unrolls recurrent layers); anything else is what
        # the code takes, and no exporter can help.
        kind = ExportError if re.search(r"^\s*\w+ = \d+\s*$", suggested, re.MULTILINE) else FinalError
        return kind(f"the module does not take the declared axes as they are: {fixes or first}",
                    hint=_declaration(suggested, signature))  # fmt: skip
    return ExportError(f"torch.export cannot capture the module{where}: {type(error).__name__}: {first}")


def _declaration(suggested: str, signature: Signature) -> str:
    """What to declare where torch suggests `height = 8*_height`: the axis as a user writes it."""
    declared = []
    for name, multiple in re.findall(r"^\s*(\w+) = (\d+)\*_\1\s*$", suggested, re.MULTILINE):
        axis = signature.axis(name)
        step = math.lcm(int(multiple), axis.multiple)
        high = max(axis.maximum, step) // step * step
        needed = Axis(name, min(axis.minimum, high), high, step)
        places = ((spec.name, spec.shape.index(name)) for spec in signature.inputs if name in spec.shape)
        declared += [str(Dynamic(place, index, needed)) for place, index in places]
    if declared:
        return f"declare {' '.join(f'--dynamic {text}' for text in declared)}"
    return "declare the range or the equality that the code needs"


def _unconverted(error: Exception) -> ExportError:
    if missing := re.search(r"OpOverload\(op='([\w.]+)'", str(error)):
        text = f"operator {missing[1]}{_emitter(error)} has no ONNX form"
        return ExportError(text, hint="rewrite it with other operators")
    cause = error.__cause__ or error
    first = (str(cause).strip().splitlines() or [""])[0]
    return ExportError(f"torch.onnx cannot convert the module{_emitter(error)}: {type(cause).__name__}: {first}")


def _emitter(error: BaseException | None) -> str:
    """` (model.py:12)`, the line of the node that failed: the exporter's error does not carry it, its frames do."""
    while error is not None:
        nodes = [frame.f_locals.get("node") for frame, _ in traceback.walk_tb(error.__traceback__)]
        for node in (node for node in nodes if isinstance(node, torch.fx.Node)):
            stack = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
            if stack:
                file, line = stack[-1]
                return deepest((file, int(line)) for file, line in stack) or f" ({Path(file).name}:{line})"
        error = error.__cause__
    return ""


def _clean(model: ir.Model, signature: Signature) -> None:
    """Take out what tells about the author's machine, and give axes and weights the names that the user knows."""
    ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    NameFixPass()(model)  # an output may be called like a value inside the graph
    names: dict[str, tuple[str, int]] = {}
    for value, spec in zip(model.graph.inputs, signature.inputs, strict=True):
        for found, declared in zip(value.shape or (), spec.shape, strict=True):
            if isinstance(declared, str) and isinstance(found, int):
                raise ExportError(f"axis {declared} of input {spec.name} is fixed to {found}: it is baked in")
            if isinstance(found, ir.SymbolicDim) and isinstance(declared, str) and found.value and "+" not in declared:
                multiple, _, symbol = found.value.rpartition("*")
                names[symbol] = (declared, int(multiple or 1))
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


def _renamed(size: int | ir.SymbolicDim, names: Mapping[str, tuple[str, int]]) -> int | str | None:
    """A size in the user's words: where `32*s0` is the height, `32*s0` is `height` and `8*s0` is `height//4`."""
    if isinstance(size, int):
        return size
    if size.value is None:
        return None

    def named(match: re.Match[str]) -> str:
        name, multiple = names.get(match["symbol"], (match["symbol"], 1))
        times, power = int(match["times"] or 1), match["power"] or ""
        shared = 1 if power else math.gcd(times, multiple)
        part = name if multiple == shared else f"({name}//{multiple // shared})"
        return f"{times // shared}*{part}{power}" if times > shared else part + power

    pattern = r"(?<!\w)(?:(?<!\*\*)(?P<times>\d+)\*)?(?P<symbol>[A-Za-z_]\w*)(?P<power>\*\*)?"
    text = re.sub(pattern, named, size.value)
    if whole := re.fullmatch(r"\((\w+//\d+)\)", text):
        return whole[1]
    terms = sorted(term.strip() for term in text.split("+"))
    return "+".join(terms) if len(terms) > 1 else text
