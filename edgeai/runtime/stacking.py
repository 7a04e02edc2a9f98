"""Several feeds as one, and one answer as several: along the batch axis, with what differs in length padded."""

from __future__ import annotations

import bisect
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from edgeai.errors import InputError, UsageError
from edgeai.spec import Array, Feed, Signature


@dataclass(frozen=True)
class Padding:
    """Sizes along the symbolic axis `axis` are rounded up to the next of `sizes`; larger ones stay as they are.

    `values` says for each input with that axis what the padding holds, such as 0 in an attention mask. That the answer
    does not depend on it is the model's promise: a mask keeps it, up to rounding. Outputs are cut to the real size.
    Raises UsageError for sizes that are not positive and rising.
    """

    axis: str
    sizes: tuple[int, ...]
    values: Mapping[str, int | float]

    def __post_init__(self) -> None:
        if not self.sizes or list(self.sizes) != sorted({size for size in self.sizes if size > 0}):
            raise UsageError(f"padding of {self.axis}: sizes {list(self.sizes)} are not positive and rising")

    def rounded(self, size: int) -> int:
        index = bisect.bisect_left(self.sizes, size)
        return self.sizes[index] if index < len(self.sizes) else size


@final
class Stacking:
    """What a signature says about feeds that can be answered together.

    Raises UsageError for a model whose inputs or outputs do not share a symbolic axis 0, or a padding that does not
    fit it.
    """

    def __init__(self, signature: Signature, padding: Padding | None = None) -> None:
        self.signature, self._padding = signature, padding
        first = signature.inputs[0].shape if signature.inputs else ()
        batch = first[0] if first else None
        free = {axis for spec in signature.inputs for axis in spec.shape} - {batch}
        for spec in (*signature.inputs, *signature.outputs):
            axis = spec.shape[0] if spec.shape else None
            # An output may call its batch axis by another name, where whoever exported it did not know better.
            mine = axis == batch or (spec in signature.outputs and axis not in free)
            if not isinstance(batch, str) or not isinstance(axis, str) or not mine:
                raise UsageError(
                    f"{spec} does not share its axis 0 with the others: its rows cannot be batched",
                    hint="export the model with a dynamic batch axis",
                )
        self._padded = {} if padding is None else _padded_axes(signature, padding)

    def rows(self, feed: Feed) -> int:
        return int(feed[self.signature.inputs[0].name].shape[0])

    def key(self, feed: Feed) -> Hashable:
        """Feeds with equal keys can be stacked."""
        return tuple(self._shape(spec.name, feed[spec.name])[1:] for spec in self.signature.inputs)

    def stack(self, feeds: Sequence[Feed]) -> dict[str, Array]:
        """One feed of all rows, in order."""
        if len(feeds) == 1 and not self._padded:
            return dict(feeds[0])
        return {name: self._joined(name, [feed[name] for feed in feeds]) for name in self.signature.input_names}

    def split(self, answer: Mapping[str, Array], feeds: Sequence[Feed]) -> list[dict[str, Array]]:
        """The answer's rows for each feed. Raises InputError if an output has not one row for each row that went in."""
        counts = [self.rows(feed) for feed in feeds]
        for name, array in answer.items():
            if array.shape[:1] != (sum(counts),):
                raise InputError(f"output {name} has shape {array.shape} for {sum(counts)} rows: it cannot be split")
        if len(feeds) == 1 and not self._padded:
            return [dict(answer)]
        ends = np.cumsum(counts)
        return [
            # Copies: a view would keep everybody's answers in memory for as long as one of them is wanted.
            {name: self._cut(name, array[end - count : end], feed).copy() for name, array in answer.items()}
            for feed, count, end in zip(feeds, counts, ends, strict=True)
        ]

    def _shape(self, name: str, array: Array) -> tuple[int, ...]:
        if self._padding is None or name not in self._padded:
            return array.shape
        padded = self._padded[name]
        return tuple(self._padding.rounded(size) if i in padded else size for i, size in enumerate(array.shape))

    def _joined(self, name: str, arrays: Sequence[Array]) -> Array:
        if self._padding is None or name not in self._padded:
            return np.concatenate(arrays)
        shape = (sum(len(array) for array in arrays), *self._shape(name, arrays[0])[1:])
        filled = np.full(shape, self._padding.values[name], arrays[0].dtype)
        start = 0
        for array in arrays:
            filled[(slice(start, start := start + len(array)), *map(slice, array.shape[1:]))] = array
        return filled

    def _cut(self, name: str, array: Array, feed: Feed) -> Array:
        if self._padding is None or name not in self._padded:
            return array
        source = next(iter(self._padding.values))
        size = feed[source].shape[self._padded[source][0]]
        return array[tuple(slice(size) if i in self._padded[name] else slice(None) for i in range(array.ndim))]


def _padded_axes(signature: Signature, padding: Padding) -> dict[str, tuple[int, ...]]:
    """Name of an input or output -> which of its axes are padded."""
    found: dict[str, tuple[int, ...]] = {}
    for spec in (*signature.inputs, *signature.outputs):
        axes = tuple(i for i, axis in enumerate(spec.shape) if axis == padding.axis)
        if 0 in axes or any(padding.axis in str(axis).split("+") and axis != padding.axis for axis in spec.shape):
            raise UsageError(f"{spec} cannot be padded along {padding.axis}")
        if axes:
            found[spec.name] = axes
    inputs = found.keys() & set(signature.input_names)
    if not inputs or inputs != padding.values.keys():
        raise UsageError(
            f"padding of {padding.axis}: values for {', '.join(sorted(padding.values)) or 'no input'}",
            hint=f"the inputs with that axis are: {', '.join(sorted(inputs)) or 'none'}",
        )
    return found
