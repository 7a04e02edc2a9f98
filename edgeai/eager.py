"""A torch module as an engine: named numpy arrays in, named numpy arrays out, in eval and inference mode."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from edgeai.errors import InputError, SourceError
from edgeai.frames import user_line
from edgeai.spec import Array, Feed, Signature


class EagerEngine:
    """Runs `module` as `signature` says; the module's training flags come back on `close`.

    The outputs are flattened and named: a bare tensor is `output`, a mapping, dataclass or named tuple gives its
    field names, positions are numbers, nesting is joined by dots (`present.0.key`). `signature.outputs`, if any
    are declared, name them in order instead.
    """

    def __init__(
        self, module: nn.Module, signature: Signature, *, threads: int | None = None, fast_path: bool = False
    ) -> None:
        """`fast_path` lets nn.TransformerEncoder use its inference kernels: faster, but their answers at padded
        positions are others than what the module's own code gives. Raises SourceError if the module's `forward`
        does not take the signature's inputs, or if it has parameters without values.
        """
        _refuse_empty(module)
        self._call = Call(module, signature.input_names)
        self._signature = signature
        self._training = evaluate(module)
        self._threads = torch.get_num_threads() if threads is not None else None
        if threads is not None:
            torch.set_num_threads(threads)
        self._fast_path = fast_path
        self._closed = False

    @property
    def signature(self) -> Signature:
        return self._signature

    def run(self, feed: Feed) -> dict[str, Array]:
        """Answer one feed. Raises InputError if it does not fit, or if the module itself refuses it."""
        if self._closed:
            raise InputError("the engine is closed")
        self._signature.check(feed)
        device = next((parameter.device for parameter in self._call.module.parameters()), None)
        # Copies, because a module may write into its inputs and the feed is the caller's.
        values = [to_tensor(feed[name]).to(device) for name in self._signature.input_names]
        try:
            with torch.inference_mode(), _fast_path(self._fast_path):
                answer = self._call(values)
        except Exception as error:  # whatever a user's forward raises on a shape that it does not take
            shapes = ", ".join(f"{name} {tuple(array.shape)}" for name, array in feed.items())
            first = (str(error).strip().splitlines() or [""])[0]
            where = user_line(error)
            raise InputError(f"the module refuses {shapes}{where}: {type(error).__name__}: {first}") from error
        outputs = {name: to_array(tensor) for name, tensor in flatten(answer).items()}
        if not self._signature.outputs:
            return outputs
        if len(outputs) != len(self._signature.outputs):
            names = ", ".join(self._signature.output_names)
            raise InputError(f"the module gives {len(outputs)} outputs, its signature names {names}")
        return dict(zip(self._signature.output_names, outputs.values(), strict=True))

    def close(self) -> None:
        """Give the module back as it was. May be called twice."""
        if not self._closed:
            self._closed = True
            restore(self._training)
            if self._threads is not None:
                torch.set_num_threads(self._threads)

    def __enter__(self) -> EagerEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def _fast_path(enabled: bool) -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(enabled)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _refuse_empty(module: nn.Module) -> None:
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor):
            hint = "run the module once on example inputs, then export it"
            raise SourceError(f"{type(module).__name__}: {name} has no shape yet (a lazy module)", hint=hint)
        if tensor.is_meta:
            hint = "load the weights, or make the module on the cpu"
            raise SourceError(f"{type(module).__name__}: {name} is on the meta device: it has no values", hint=hint)


class Call:
    """How a module is given named inputs: by keyword where `forward` has those names, else in order to `*args`."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        """Raises SourceError naming what is missing or unknown."""
        self.module, self.names = module, tuple(names)
        parameters = inspect.signature(module.forward).parameters
        kinds = {parameter.kind for parameter in parameters.values()}
        if inspect.Parameter.VAR_KEYWORD not in kinds and inspect.Parameter.VAR_POSITIONAL in kinds:
            self.by_keyword = False
            return
        taken = {name for name, parameter in parameters.items() if parameter.kind in _NAMED}
        unknown = [name for name in names if name not in taken]
        if inspect.Parameter.VAR_KEYWORD in kinds:
            unknown = []
        required = [name for name in taken if parameters[name].default is inspect.Parameter.empty]
        missing = [name for name in parameters if name in required and name not in names]
        if unknown or missing:
            wrong = [f"no {', '.join(unknown)}"] * bool(unknown) + [f"needs {', '.join(missing)}"] * bool(missing)
            raise SourceError(
                f"{type(module).__name__}.forward({', '.join(parameters)}) takes other inputs: {' and '.join(wrong)}",
                hint="name the inputs as forward's parameters are named",
            )
        self.by_keyword = True

    def __call__(self, values: Sequence[Tensor]) -> Any:
        if self.by_keyword:
            return self.module(**dict(zip(self.names, values, strict=True)))
        return self.module(*values)


_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def evaluate(module: nn.Module) -> dict[nn.Module, bool]:
    """Put every part of `module` in eval mode; return the flags for `restore`."""
    flags = {part: part.training for part in module.modules()}
    for part in flags:  # not module.eval(): it may be overridden, and an ExportedProgram's module refuses it
        part.training = False
    return flags


def restore(training: Mapping[nn.Module, bool]) -> None:
    for part, flag in training.items():
        part.training = flag


def flatten(answer: Any) -> dict[str, Tensor]:
    """The tensors of a module's answer under stable names.

    Raises SourceError if there is none, or for anything else but None.
    """
    found = dict(_leaves(answer, ()))
    if not found:
        raise SourceError(f"the module returns no tensor but {answer!r:.40}", hint="an ONNX output is a tensor")
    return {name or "output": tensor for name, tensor in found.items()}


def _leaves(answer: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(answer, Tensor):
        yield ".".join(path), answer
        return
    if isinstance(answer, Mapping):
        children = [(str(key), value) for key, value in answer.items()]
    elif dataclasses.is_dataclass(answer):
        children = [(field.name, getattr(answer, field.name)) for field in dataclasses.fields(answer)]
    elif isinstance(answer, tuple) and hasattr(answer, "_fields"):
        children = list(zip(answer._fields, answer, strict=True))
    elif isinstance(answer, list | tuple):
        children = [(str(index), value) for index, value in enumerate(answer)]
        if not path:  # a bare number would be a poor name for an output
            children = [(f"output.{index}", value) for index, value in children]
    elif answer is None:
        return
    else:
        where = ".".join(path) or "its answer"
        kind = f"{type(answer).__name__} ({answer!r:.40})"
        raise SourceError(
            f"the module returns {kind} as {where}, not a tensor", hint="return torch.tensor(...) or drop it"
        )
    for name, value in children:
        yield from _leaves(value, (*path, name))


def to_tensor(array: Array) -> Tensor:
    """A copy as a tensor of the same dtype (bfloat16 included)."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def to_array(tensor: Tensor) -> Array:
    """The values as a numpy array of the same dtype; bfloat16 through ml_dtypes, which numpy lacks.

    Raises SourceError for a tensor without values.
    """
    if tensor.is_meta:
        raise SourceError("a tensor on the meta device has no values", hint="make it on the cpu")
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype is torch.bfloat16:
        array: Array = tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return array
    return np.asarray(tensor.resolve_conj().resolve_neg().numpy())
