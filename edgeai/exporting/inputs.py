"""How a user writes down what a module takes: `x:float32[batch,3,224,224]`, `ids:int64[batch,seq]<30522`,
`x:0=batch:1..64`.

    input    NAME:DTYPE[AXIS,...] with `<HIGH` behind it for integers below HIGH; `[]` is a scalar
    axis     a number (fixed), a name (symbolic), or a sum of names (`past+seq`)
    dynamic  NAME:INDEX=AXIS with `:MIN..MAX` behind it for the sizes to prove, and `/MULTIPLE` behind that where the
             module takes multiples alone (`x:2=height:32..256/32`)
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgeai.errors import InputError, UsageError
from edgeai.spec import DTYPES, Axis, Signature, TensorSpec

_AXIS = r"[A-Za-z_]\w*"
_DIMENSION = rf"(?:\d+|{_AXIS}(?:\+{_AXIS})*)"
_INPUT = re.compile(r"(?P<name>[^:\[\]<]+):(?P<dtype>\w+)\[(?P<shape>[^\]]*)\](?:<(?P<high>\d+))?")
_RANGE = r"(?P<low>\d+)\.\.(?P<high>\d+)(?:/(?P<multiple>\d+))?"
_DYNAMIC = re.compile(rf"(?P<name>.+):(?P<index>\d+)=(?P<axis>{_AXIS})(?::{_RANGE})?")

DynamicAxes = Mapping[str, Mapping[int, str | Axis]]


@dataclass(frozen=True)
class Dynamic:
    """One axis of one input that may change its size. `str(dynamic)` is how a user declares it."""

    input: str
    index: int
    axis: Axis

    def __str__(self) -> str:
        return f"{self.input}:{self.index}={self.axis}"


def parse_input(text: str) -> TensorSpec:
    """Read `NAME:DTYPE[AXIS,...]<HIGH`. Raises UsageError saying what it expected. `str(spec)` is the inverse."""
    match = _INPUT.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not an input", hint="write NAME:DTYPE[AXES], as x:float32[batch,3,224,224]")
    if match["dtype"] not in DTYPES:
        raise UsageError(f"{text!r}: there is no dtype {match['dtype']}", hint=f"use one of {', '.join(DTYPES)}")
    axes = [axis.strip() for axis in match["shape"].split(",")] if match["shape"].strip() else []
    for axis in axes:
        if not re.fullmatch(_DIMENSION, axis, re.ASCII):
            raise UsageError(f"{text!r}: {axis!r} is not an axis", hint="use a number, a name, or a sum of names")
    shape = tuple(int(axis) if axis.isdigit() else axis for axis in axes)
    high = int(match["high"]) if match["high"] else None
    if high is not None and ("int" not in match["dtype"] or high < 1):
        raise UsageError(f"{text!r}: <{high} bounds the values of an integer input, from 0 to at least 1")
    return TensorSpec(match["name"].strip(), match["dtype"], shape, 0 if high is not None else None, high)


def parse_dynamic(text: str) -> Dynamic:
    """Read `NAME:INDEX=AXIS:MIN..MAX/MULTIPLE`. Raises UsageError saying what it expected.

    `str(dynamic)` is the inverse; a range is rounded inward to multiples.
    """
    match = _DYNAMIC.fullmatch(text.strip())
    if match is None:
        hint = "write NAME:INDEX=AXIS:MIN..MAX, as x:0=batch:1..64 or, for multiples of 32 alone, x:2=height:32..256/32"
        raise UsageError(f"{text!r} is not a dynamic axis", hint=hint)
    axis = Axis(match["axis"])
    if match["low"]:
        try:
            axis = Axis(axis.name, int(match["low"]), int(match["high"]), int(match["multiple"] or 1))
        except InputError as error:
            raise UsageError(f"{text!r}: {error.message}") from error
    return Dynamic(match["name"], int(match["index"]), axis)


def dynamics(axes: DynamicAxes) -> list[Dynamic]:
    """The mapping form, `{"x": {0: "batch", 2: Axis("width", 32, 256)}}`, as a list."""
    return [
        Dynamic(name, index, axis if isinstance(axis, Axis) else Axis(axis))
        for name, by_index in axes.items()
        for index, axis in by_index.items()
    ]


def make_dynamic(signature: Signature, declared: Iterable[Dynamic]) -> Signature:
    """`signature` with these axes symbolic. Raises UsageError for an input or axis that is not there, or for two
    ranges under one name.
    """
    inputs = {spec.name: spec for spec in signature.inputs}
    axes = {axis.name: axis for axis in signature.axes}
    given: dict[str, Axis] = {}
    for row in declared:
        spec = inputs.get(row.input)
        if spec is None:
            raise UsageError(f"dynamic axis of {row.input}: no such input", hint=f"there are {', '.join(inputs)}")
        if not 0 <= row.index < len(spec.shape):
            raise UsageError(f"dynamic axis {row.index} of {row.input}: it has rank {len(spec.shape)} ({spec})")
        if given.setdefault(row.axis.name, row.axis) != row.axis:
            raise UsageError(f"axis {row.axis.name} is given two ranges; declare it the same everywhere")
        shape = (*spec.shape[: row.index], row.axis.name, *spec.shape[row.index + 1 :])
        inputs[row.input] = dataclasses.replace(spec, shape=shape)
    axes |= given
    used = {axis for spec in inputs.values() for axis in spec.shape}
    kept = tuple(axis for axis in axes.values() if axis.name in used or "+" in axis.name)
    return Signature(tuple(inputs.values()), signature.outputs, kept)


def parse_signature(inputs: Sequence[str], dynamic: Sequence[str] = ()) -> Signature:
    """What `--input` and `--dynamic` declare; the outputs are not known yet.

    Raises UsageError if they do not parse, or name an input twice.
    """
    specs = [parse_input(text) for text in inputs]
    twice = {spec.name for spec in specs if [other.name for other in specs].count(spec.name) > 1}
    if twice:
        raise UsageError(f"input {', '.join(sorted(twice))} is declared twice")
    names = {axis for spec in specs for axis in spec.shape if isinstance(axis, str) and "+" not in axis}
    signature = Signature(tuple(specs), (), tuple(Axis(name) for name in sorted(names)))
    return make_dynamic(signature, map(parse_dynamic, dynamic))
