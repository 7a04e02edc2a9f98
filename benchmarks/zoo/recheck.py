"""A second opinion on an exported file: plain PyTorch against a bare ONNX Runtime session.

It shares no code with the gate that wrote the file: its own sizes, its own values, its own way to compare. So a
mistake in the gate does not hide here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeai.spec import Axis
from zoo.subject import Dynamic, Example

Array = NDArray[Any]
Arrays = dict[str, Array]
Sizes = Mapping[str, int]

LIMIT = 1e-3  # of an output's root mean square; rounding alone stays two orders below
SEED = 20_000
_SMALL = (4, 13)
_BETWEEN = (0.63, 0.21, 0.87)  # of the range: one size beyond what code may treat as small; more where 4 is too small


@dataclass(frozen=True)
class Recheck:
    """`wrong` is a word for what is wrong at the first feed where anything is, `finding` the sentence; else empty.

    `shapes` counts the sizes compared; those that the module itself refuses are not held against the file.
    """

    shapes: int
    feeds: int
    error: float
    wrong: str = ""
    finding: str = ""

    @property
    def right(self) -> bool:
        return not self.wrong and self.feeds > 0


class _WrongError(Exception):
    def __init__(self, wrong: str, finding: str) -> None:
        super().__init__(finding)
        self.wrong = wrong


def recheck(
    path: Path,
    reference: Callable[[Arrays], Sequence[Array]],
    example: Example,
    dynamic: Dynamic,
    *,
    plans: Sequence[Sizes] | None = None,
    complete: Callable[[Arrays, Sequence[Any]], Arrays] | None = None,
) -> Recheck:
    """Compare at `plans` (three fresh sizes of every axis), with normal and with uniform values.

    `complete` gives a feed what the file takes beyond the module's own inputs.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors are of no common class
        return Recheck(0, 0, 0.0, "does not load", _first_line(error))
    generator, worst, feeds, shapes = np.random.default_rng(SEED), 0.0, 0, 0
    for sizes in fresh_sizes(dynamic) if plans is None else plans:
        at = " ".join(f"{name}={size}" for name, size in sizes.items()) or "the example's sizes"
        for uniform in (False, True):
            feed = draw(example, dynamic, sizes, generator, uniform=uniform)
            try:
                expected = reference(feed)
            except Exception:  # a module that does not take this size raises what it likes
                break
            try:
                worst = max(worst, _judge(session, feed, expected, complete))
            except _WrongError as error:
                return Recheck(shapes, feeds, worst, error.wrong, f"{error} at {at}")
            feeds += 1
        else:
            shapes += 1
    return Recheck(shapes, feeds, worst)


def _judge(
    session: onnxruntime.InferenceSession,
    feed: Arrays,
    expected: Sequence[Array],
    complete: Callable[[Arrays, Sequence[Any]], Arrays] | None,
) -> float:
    inputs = session.get_inputs()
    feed = complete(feed, inputs) if complete is not None else feed
    taken = {row.name: feed[row.name] for row in inputs}
    try:
        actual, again = session.run(None, taken), session.run(None, taken)
    except Exception as error:  # see above
        raise _WrongError("refuses", f"refused ({_first_line(error)})") from error
    try:
        compare(actual, again)
    except _WrongError as error:
        raise _WrongError("random", f"the answer changes from run to run: {error}") from error
    try:
        return compare(expected, actual)
    except _WrongError as error:
        if error.wrong == "wrong values" and _agree_unpadded(feed, expected, actual):
            raise _WrongError("wrong at padding", f"{error}, at padded positions alone") from error
        raise


def _agree_unpadded(feed: Arrays, expected: Sequence[Array], actual: Sequence[Array]) -> bool:
    """Does what a user of a padded batch reads agree, though the rest does not?"""
    mask = feed.get("attention_mask")
    if mask is None:
        return False

    def read(outputs: Sequence[Array]) -> list[Array]:
        return [a[mask == 1] if a.shape[: mask.ndim] == mask.shape else a for a in outputs]

    try:
        compare(read(expected), read(actual))
    except _WrongError:
        return False
    return True


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def fresh_sizes(dynamic: Dynamic) -> list[dict[str, int]]:
    """Three sizes of every axis, different axes at different ones."""
    axes = {axis.name: axis for by_index in dynamic.values() for axis in by_index.values()}
    chosen = {name: _candidates(axis) for name, axis in axes.items()}
    plans = [{name: sizes[(i + j) % len(sizes)] for j, (name, sizes) in enumerate(chosen.items())} for i in range(3)]
    return [plan for i, plan in enumerate(plans) if plan not in plans[:i]]


def _candidates(axis: Axis) -> list[int]:
    between = (axis.minimum + round(part * (axis.maximum - axis.minimum)) for part in _BETWEEN)
    small = [size for size in _SMALL if size % axis.multiple == 0]
    found = [
        size
        for size in (*small, *(size // axis.multiple * axis.multiple for size in between))
        if axis.minimum <= size <= axis.maximum
    ]
    return list(dict.fromkeys(found))[:3] or [axis.minimum]


def draw(example: Example, dynamic: Dynamic, sizes: Sizes, generator: np.random.Generator, *, uniform: bool) -> Arrays:
    """Values like the example's: integers from its range, masks padded on the right, floats of order one."""
    feed: Arrays = {}
    for name, tensor in example.items():
        axes = dynamic.get(name, {})
        shape = tuple(sizes[axes[i].name] if i in axes else size for i, size in enumerate(tensor.shape))
        if "mask" in name:
            kept = generator.integers(1, shape[-1] + 1, (*shape[:-1], 1))
            feed[name] = (np.arange(shape[-1]) < kept).astype(tensor.numpy().dtype)
        elif tensor.dtype is torch.bool:
            feed[name] = generator.random(shape) < 0.4
        elif tensor.dtype.is_floating_point:
            values = generator.uniform(-2, 2, shape) if uniform else generator.normal(size=shape)
            feed[name] = values.astype(tensor.numpy().dtype)
        else:
            feed[name] = generator.integers(0, int(tensor.max()) + 1, shape).astype(tensor.numpy().dtype)
    return feed


def answer(module: nn.Module, feed: Arrays) -> list[Array]:
    """The module's outputs in order."""
    with torch.no_grad():
        found = module(**{name: torch.from_numpy(array.copy()) for name, array in feed.items()})
    return [tensor.numpy() for tensor in tensors(found)]


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of a module's answer in order; of a transformers cache, each layer's keys and values."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors(list(value.values()))
    elif dataclasses.is_dataclass(value):
        yield from tensors([getattr(value, field.name) for field in dataclasses.fields(value)])
    elif hasattr(value, "layers"):
        yield from tensors([(layer.keys, layer.values) for layer in value.layers])
    elif isinstance(value, Sequence):
        for item in value:
            yield from tensors(item)


def compare(expected: Sequence[Array], actual: Sequence[Array]) -> float:
    """The largest difference in units of the output's root mean square."""
    if len(expected) != len(actual):
        raise _WrongError("outputs", f"{len(actual)} outputs in place of {len(expected)}")
    worst = 0.0
    for index, (a, b) in enumerate(zip(expected, actual, strict=True)):
        if a.shape != b.shape:
            raise _WrongError("wrong shape", f"output {index} has shape {b.shape} in place of {a.shape}")
        if a.dtype != b.dtype:
            raise _WrongError("wrong dtype", f"output {index} is {b.dtype} in place of {a.dtype}")
        finite = np.isfinite(a)
        if not np.array_equal(finite, np.isfinite(b)):
            raise _WrongError("wrong values", f"output {index} has NaN or Inf on one side only")
        a, b = a[finite].astype(np.float64), b[finite].astype(np.float64)
        apart = float(np.max(np.abs(a - b), initial=0.0))
        scale = float(np.sqrt(np.mean(a**2))) if a.size else 0.0
        error = 0.0 if apart == 0 else apart / scale if scale else np.inf
        if error > LIMIT:
            raise _WrongError("wrong values", f"output {index} differs by {error:.2g} of its scale")
        worst = max(worst, error)
    return worst
