"""Over which sizes was it proven? An axis that works at one size alone is not the axis that was declared."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from edgeai.agreement import Finding
from edgeai.spec import Axis, Signature

Plan = Mapping[str, int]


def fixed_axes(
    signature: Signature,
    proven: Sequence[Plan],
    *,
    broken: Sequence[Plan],
    wrong: Sequence[Plan],
    refused: Sequence[Plan],
) -> Iterator[Finding]:
    """An axis that one side takes at a single size, and sizes that look like the multiples of a number.

    `proven` are the sizes at which both sides answered alike in shape and dtype, `broken` those at which the
    candidate did not, `wrong` those at which its values were off, `refused` those that the reference refused.
    """
    right = [plan for plan in proven if plan not in wrong]
    for name in proven[0] if proven else ():
        sizes, taken, failed, unproven = (_sizes(plans, name) for plans in (right, proven, broken, refused))
        if min(sizes, default=0) > 1:  # at a single position many an error of another kind does not show
            failed |= _sizes(wrong, name)
        hint = _multiple(signature, name, taken, unproven)
        if len(sizes) == 1 and failed - sizes:
            text = f"axis {name} is baked at {min(sizes)}: the candidate is right at no other size"
            yield Finding("failed", text)
        elif len(taken) == 1 and unproven - taken:
            text = f"axis {name} is proven at {min(taken)} alone: the reference refuses other sizes"
            yield Finding("unverified", f"{text}{hint}")
        elif hint:
            yield Finding("note", f"the reference refuses sizes of axis {name}{hint}")


def _sizes(plans: Sequence[Plan], name: str) -> set[int]:
    return {plan[name] for plan in plans if name in plan}


def _multiple(signature: Signature, name: str, taken: set[int], refused: set[int]) -> str:
    """What to declare where only multiples of a power of two are taken: the largest that fits what was seen."""
    shared = math.gcd(*taken)
    multiple = shared & -shared  # the largest power of two in it
    declared = signature.axis(name)
    if multiple <= declared.multiple or not refused or any(size % multiple == 0 for size in refused):
        return ""
    axis = Axis(name, min(multiple, *taken), max(declared.maximum, *taken), multiple)
    place = next((f"{spec.name}:{spec.shape.index(name)}" for spec in signature.inputs if name in spec.shape), name)
    return f"; if it takes multiples of {multiple} alone, declare that, as {place}={axis}"
