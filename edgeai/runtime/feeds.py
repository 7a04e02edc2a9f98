"""Does a feed fit the signature? Answered in well under a microsecond an input, because every run asks."""

from __future__ import annotations

from typing import final

import numpy as np

from edgeai.errors import InputError
from edgeai.spec import Array, Feed, Signature


@final
class FeedCheck:
    """A signature, compiled. `fits` is the fast yes; `exact` converts what can be converted and explains the rest."""

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        symbols = [axis for spec in signature.inputs for axis in spec.shape if isinstance(axis, str)]
        self._inputs = [
            (
                spec.name,
                np.dtype(object) if spec.dtype in ("string", "bfloat16", "int4", "uint4") else np.dtype(spec.dtype),
                len(spec.shape),
                [(i, size) for i, size in enumerate(spec.shape) if isinstance(size, int)],
                # An axis that occurs once has nothing to agree with.
                [(i, name) for i, name in enumerate(spec.shape) if isinstance(name, str) and symbols.count(name) > 1],
            )
            for spec in signature.inputs
        ]
        # What lies in an array of objects must be looked at every time.
        self._plain = all(dtype.kind != "O" for _, dtype, *_ in self._inputs)

    def fits(self, feed: Feed) -> bool:
        """True only if `exact` would return the feed as it is."""
        if len(feed) != len(self._inputs) or not self._plain:
            return False
        sizes: dict[str, int] = {}
        for name, dtype, rank, fixed, shared in self._inputs:
            value = feed.get(name)
            if type(value) is not np.ndarray or value.dtype != dtype or value.ndim != rank:
                return False
            shape = value.shape
            for axis, size in fixed:
                if shape[axis] != size:
                    return False
            for axis, symbol in shared:
                if sizes.setdefault(symbol, shape[axis]) != shape[axis]:
                    return False
        return True

    def exact(self, feed: Feed) -> dict[str, Array]:
        """The same values as ONNX Runtime can take them. Raises InputError for what cannot be converted exactly."""
        converted = {name: _native(name, value) for name, value in feed.items()}
        self.signature.check(converted)
        for spec in self.signature.inputs:
            if spec.dtype == "string":
                _refuse_inexact_text(spec.name, converted[spec.name])
        return converted


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
