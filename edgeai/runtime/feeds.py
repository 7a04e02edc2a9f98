"""Does a feed fit the signature? Answered in a fraction of a microsecond an input, because every run asks."""

from __future__ import annotations

from typing import final

import numpy as np

from edgeai.errors import InputError
from edgeai.spec import Array, Feed, Signature, TensorSpec

_OBJECTS = ("string", "bfloat16", "int4", "uint4")  # what numpy holds as objects, or not at all


@final
class FeedCheck:
    """A signature, compiled. `size` is the fast yes; `exact` converts what can be converted and explains the rest."""

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        symbols = [axis for spec in signature.inputs for axis in spec.shape if isinstance(axis, str)]
        self._inputs = [
            (
                spec.name,
                np.dtype(object) if spec.dtype in _OBJECTS else np.dtype(spec.dtype),
                len(spec.shape),
                tuple((i, size) for i, size in enumerate(spec.shape) if isinstance(size, int)),
                # An axis that occurs once has nothing to agree with.
                tuple((i, name) for i, name in enumerate(spec.shape) if name in symbols and symbols.count(name) > 1),
            )
            for spec in signature.inputs
        ]
        self._count = len(self._inputs)
        # What lies in an array of objects must be looked at every time.
        self._plain = all(dtype.kind != "O" for _, dtype, *_ in self._inputs)

    def size(self, feed: dict[str, Array]) -> int:
        """Bytes of all inputs together, if `exact` would return the feed as it is; otherwise -1."""
        if len(feed) != self._count or not self._plain:
            return -1
        total = 0
        sizes: dict[str, int] | None = None
        for name, dtype, rank, fixed, shared in self._inputs:
            value = feed.get(name)
            if type(value) is not np.ndarray or value.ndim != rank:
                return -1
            # numpy has one object for each of its dtypes, but arrays that were pickled have their own.
            if value.dtype is not dtype and value.dtype != dtype:
                return -1
            size = value.nbytes
            if not size:
                return -1
            total += size
            if fixed or shared:
                shape = value.shape
                for axis, length in fixed:
                    if shape[axis] != length:
                        return -1
                if shared:
                    if sizes is None:
                        sizes = {}
                    for axis, symbol in shared:
                        if sizes.setdefault(symbol, shape[axis]) != shape[axis]:
                            return -1
        return total

    def exact(self, feed: Feed) -> dict[str, Array]:
        """The same values as ONNX Runtime can take them.

        Raises InputError for what cannot be converted exactly, and for an empty axis that is declared to be at least 1:
        kernels that divide by a length end the process.
        """
        converted = {name: _native(name, value) for name, value in feed.items()}
        self.signature.check(converted)
        for spec in self.signature.inputs:
            if not converted[spec.name].size:
                self._refuse_empty(spec, converted[spec.name].shape)
            if spec.dtype == "string":
                _refuse_inexact_text(spec.name, converted[spec.name])
        return converted

    def _refuse_empty(self, spec: TensorSpec, shape: tuple[int, ...]) -> None:
        declared = {axis.name: axis for axis in self.signature.axes}
        for index, (axis, size) in enumerate(zip(spec.shape, shape, strict=True)):
            if size == 0 and isinstance(axis, str) and axis in declared and declared[axis].minimum > 0:
                raise InputError(
                    f"input {spec.name}: axis {index} ({axis}) is empty, but declared as {declared[axis]}",
                    hint="leave out the run, or export with a range that begins at 0",
                )


def _native(name: str, value: Array) -> Array:
    if isinstance(value, np.ma.MaskedArray):
        raise InputError(f"input {name}: a masked array", hint="fill it first: array.filled(value)")
    if isinstance(value, np.ndarray) and not value.dtype.isnative:
        return value.astype(value.dtype.newbyteorder("="))
    return value


def _refuse_inexact_text(name: str, value: Array) -> None:
    """ONNX Runtime would write None as "None" and take bytes for UTF-8."""
    if value.dtype.kind == "S":
        raise InputError(
            f"input {name}: expected text, got bytes", hint="decode them: numpy.char.decode(array, 'utf-8')"
        )
    for item in value.flat:
        if not isinstance(item, str):
            raise InputError(f"input {name}: expected text, got {type(item).__name__} {item!r:.40}")
        try:
            item.encode()
        except UnicodeEncodeError:
            raise InputError(f"input {name}: {item!r:.40} has a lone surrogate, which is no text") from None
