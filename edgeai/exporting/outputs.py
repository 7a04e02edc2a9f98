"""What comes out of a module: names, dtypes and axes, from what it answers."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from edgeai.eager import EagerEngine
from edgeai.errors import InputError
from edgeai.probing import probe_feeds, shape_plans
from edgeai.spec import Array, Feed, Signature, TensorSpec


def outputs_of(module: nn.Module, signature: Signature, example: Feed) -> tuple[TensorSpec, ...]:
    """Names, dtypes and axes of the outputs, from two runs at different sizes."""
    with EagerEngine(module, signature) as engine:
        runs: list[tuple[Mapping[str, int], dict[str, Array]]] = [(_sizes(signature, example), engine.run(example))]
        for probe in probe_feeds(signature)[-len(shape_plans(signature)) :]:
            if len(runs) == 1 and all(probe.sizes[axis] != size for axis, size in runs[0][0].items()):
                try:
                    runs.append((probe.sizes, engine.run(probe.feed)))
                except InputError:  # not a size that the module takes; the verification will say so
                    continue
    (sizes, first), (others, second) = runs[0], runs[-1]

    def axis(name: str, index: int, size: int) -> int | str:
        now = second[name].shape[index]
        matching = [key for key, value in sizes.items() if value == size and others[key] == now]
        return size if now == size else next(iter(matching), f"{name}_{index}")

    return tuple(
        TensorSpec(name, array.dtype.name, tuple(axis(name, i, size) for i, size in enumerate(array.shape)))
        for name, array in first.items()
    )


def _sizes(signature: Signature, feed: Feed) -> dict[str, int]:
    pairs = [
        (axis, size) for spec in signature.inputs for axis, size in zip(spec.shape, feed[spec.name].shape, strict=True)
    ]
    return {axis: size for axis, size in pairs if isinstance(axis, str) and "+" not in axis}
