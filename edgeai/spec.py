"""What goes into a model and what comes out: names, dtypes, axes, and the range of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeai.errors import InputError

Array = npt.NDArray[Any]
Feed = Mapping[str, Array]

DTYPES = [
    "bool",
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "int4",
    "uint4",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "string",
]


@dataclass(frozen=True)
class Axis:
    """A symbolic axis and the sizes it may take: the multiples of `multiple` in `minimum..maximum`, both ends included.

    The ends are rounded inward to multiples. Raises InputError if no size is left. `str(axis)` is how a user
    declares it, `height:32..256/32`.
    """

    name: str
    minimum: int = 1
    maximum: int = 64
    multiple: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.minimum <= self.maximum:
            raise InputError(f"axis {self.name}: {self.minimum}..{self.maximum} is not a range of sizes")
        if self.multiple < 1:
            raise InputError(f"axis {self.name}: sizes cannot be multiples of {self.multiple}")
        low = -(-self.minimum // self.multiple) * self.multiple
        high = self.maximum // self.multiple * self.multiple
        if low > high:
            raise InputError(
                f"axis {self.name}: there is no multiple of {self.multiple} in {self.minimum}..{self.maximum}"
            )
        object.__setattr__(self, "minimum", low)
        object.__setattr__(self, "maximum", high)

    def __str__(self) -> str:
        step = f"/{self.multiple}" if self.multiple > 1 else ""
        return f"{self.name}:{self.minimum}..{self.maximum}{step}"

    def nearest(self, size: int) -> int:
        """The largest size of this axis up to `size`, or its smallest."""
        return min(max(size // self.multiple * self.multiple, self.minimum), self.maximum)


@dataclass(frozen=True)
class TensorSpec:
    """One tensor: a number in `shape` is fixed, a name is a symbolic axis.

    `low <= value < high` bounds the values that make sense in an integer input (token ids, masks).
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    low: int | None = None
    high: int | None = None

    def __str__(self) -> str:
        bound = f"<{self.high}" if self.high is not None else ""
        return f"{self.name}:{self.dtype}[{','.join(map(str, self.shape))}]{bound}"


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a model, in order, and the symbolic axes they share."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    axes: tuple[Axis, ...] = ()

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.outputs)

    def axis(self, name: str) -> Axis:
        """The declared range of a symbolic axis; an undeclared one gets the default range."""
        return next((axis for axis in self.axes if axis.name == name), Axis(name))

    def check(self, feed: Mapping[str, object]) -> None:
        """Raise InputError unless `feed` has exactly the declared inputs, dtypes, ranks and fixed axes,
        and every symbolic axis one size throughout. Declared ranges are where the model was proven, not a wall:
        sizes and values outside them pass.
        """
        unknown = sorted(feed.keys() - set(self.input_names))
        missing = [name for name in self.input_names if name not in feed]
        if unknown or missing:
            wrong = ([f"missing {', '.join(missing)}"] if missing else []) + (
                [f"unknown {', '.join(unknown)}"] if unknown else []
            )
            raise InputError(f"inputs: {'; '.join(wrong)}", hint=f"the model takes {', '.join(map(str, self.inputs))}")
        sizes: dict[str, tuple[int, str]] = {}
        for spec in self.inputs:
            _check_tensor(spec, feed[spec.name], sizes)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Signature:
        def tensor(row: Mapping[str, Any]) -> TensorSpec:
            return TensorSpec(row["name"], row["dtype"], tuple(row["shape"]), row.get("low"), row.get("high"))

        def axis(row: Mapping[str, Any]) -> Axis:
            return Axis(row["name"], row["minimum"], row["maximum"], row.get("multiple", 1))

        return cls(
            tuple(map(tensor, data["inputs"])),
            tuple(map(tensor, data["outputs"])),
            tuple(map(axis, data.get("axes", ()))),
        )


def _check_tensor(spec: TensorSpec, value: object, sizes: dict[str, tuple[int, str]]) -> None:
    if not isinstance(value, np.ndarray):
        raise InputError(f"input {spec.name}: expected a numpy array, got {type(value).__name__}")
    if spec.dtype == "string":
        if value.dtype.kind not in "OUS":
            raise InputError(f"input {spec.name}: expected strings, got {value.dtype}")
    elif value.dtype.name != spec.dtype:
        hint = f"convert it: array.astype(np.{spec.dtype})"
        raise InputError(f"input {spec.name}: expected {spec.dtype}, got {value.dtype.name}", hint=hint)
    elif not value.dtype.isnative:
        raise InputError(f"input {spec.name}: byte order {value.dtype.str} is not this machine's")
    if value.ndim != len(spec.shape):
        raise InputError(f"input {spec.name}: expected rank {len(spec.shape)} ({spec}), got shape {value.shape}")
    for index, (declared, size) in enumerate(zip(spec.shape, value.shape, strict=True)):
        if isinstance(declared, int):
            if size != declared:
                raise InputError(f"input {spec.name}: axis {index} must be {declared}, got {size} in {value.shape}")
        elif declared:
            seen, where = sizes.setdefault(declared, (size, spec.name))
            if seen != size:
                raise InputError(f"input {spec.name}: axis {index} ({declared}) is {size}, but {seen} in input {where}")
