"""What an answer depends on: found by changing one thing in a feed and watching which side moves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from edgeai.agreement import Finding
from edgeai.comparison import difference
from edgeai.probing import Probe, redraw
from edgeai.spec import Array, Signature

_STILL = 1e-6  # what does not reach an output moves it by nothing at all, but for rounding
_DRAWS = 8  # to get another value where there are few, as of one bool

Answers = Mapping[str, Array]


@dataclass(frozen=True)
class Variation:
    """`probe` differs from the base in the values of `input` alone, or in all of its `rows` but the first."""

    probe: Probe
    input: str = ""
    rows: int = 0


def variations(signature: Signature, base: Probe, *, seed: int) -> list[Variation]:
    """`base` with each input changed alone, and with every row of the batch made like the first.

    An input without values, or with one possible value, is left out.
    """
    generator = np.random.default_rng(seed)
    draws = [redraw(signature, base.sizes, generator) for _ in range(_DRAWS)]
    where = base.description.rpartition(", ")[0]
    found = []
    for name, array in base.feed.items():
        other = next((draw[name] for draw in draws if not np.array_equal(draw[name], array)), None)
        if other is not None:
            text = f"{where}, input {name} changed alone".removeprefix(", ")
            found.append(Variation(Probe({**base.feed, name: other}, base.sizes, text), name))
    batch = _batch_axis(signature)
    if batch is not None and base.sizes.get(batch, 0) > 1:
        rows = [spec.name for spec in signature.inputs if spec.shape and spec.shape[0] == batch]
        # Equal rows, not other ones: of two rows batch norm leaves the signs alone, and those may well stay.
        equal = {name: np.repeat(base.feed[name][:1], base.sizes[batch], axis=0) for name in rows}
        text = f"{where}, every row like the first"
        found.append(Variation(Probe({**base.feed, **equal}, base.sizes, text), rows=base.sizes[batch]))
    return found


def missed(
    variation: Variation, before: tuple[Answers, Answers], after: tuple[Answers, Answers], limit: float
) -> Iterator[Finding]:
    """What the change moves in one side alone. `before` and `after` are the reference's and the candidate's answers;
    beyond `limit`, in units of an output's scale, an output counts as moved.
    """
    if variation.rows:
        yield from _mixed_rows(variation.rows, before, after, limit)
        return
    moved = [{name: _distance(array, b[name]) for name, array in a.items()} for a, b in zip(before, after, strict=True)]
    reached = [name for name, distance in moved[0].items() if distance > limit]
    unmoved = [name for name in reached if moved[1][name] <= _STILL]
    if unmoved:
        who = "the candidate" if unmoved == reached else f"output {', '.join(unmoved)} of the candidate"
        effect = f"changed alone, it moves output {', '.join(unmoved)} of the reference and not the candidate's"
        yield Finding("failed", f"input {variation.input} is ignored by {who}: {effect}")


def _mixed_rows(
    rows: int, before: tuple[Answers, Answers], after: tuple[Answers, Answers], limit: float
) -> Iterator[Finding]:
    for name, array in before[0].items():
        if array.shape[:1] == (rows,):
            still, moved = (_distance(a[name][:1], b[name][:1]) for a, b in zip(before, after, strict=True))
            if still <= _STILL and moved > limit:
                yield Finding(
                    "failed",
                    f"output {name} of the candidate mixes the rows of a batch, as batch norm in training mode does: "
                    "its first row changes with the others, the reference's does not",
                )


class Movement:
    """How far each side's answers got from its own first answer of the same shape."""

    def __init__(self, floor: float) -> None:
        self._floor = floor
        self._first: dict[tuple[int, ...], tuple[Array, Array]] = {}
        self.moved = [0.0, 0.0]
        self.repeated = False
        self.empty = True

    def add(self, reference: Array, candidate: Array) -> None:
        if not reference.size:  # nothing can move in it
            return
        self.empty = False
        if reference.shape in self._first:
            self.repeated = True
            for side, (start, now) in enumerate(zip(self._first[reference.shape], (reference, candidate), strict=True)):
                self.moved[side] = max(self.moved[side], difference(start, now, floor=self._floor).error)
        elif len(self._first) < 2:  # the small usual shape comes first and comes often
            self._first[reference.shape] = (reference, candidate)


def vacuous(movements: Mapping[str, Movement], limit: float) -> Iterator[Finding]:
    """An output that moves less between feeds than the tolerance would agree with anything; so would an empty one."""
    watched = {name: movement for name, movement in movements.items() if movement.repeated}
    still = [name for name, movement in watched.items() if movement.moved[0] <= limit]
    empty = [name for name, movement in movements.items() if movement.empty]
    for name, movement in watched.items():
        if name not in still and movement.moved[1] <= limit:
            yield Finding("failed", f"vacuous: output {name} of the candidate does not depend on the input")
    if empty:
        nothing = len(empty) == len(movements)
        text = f"no value of output {', '.join(empty)} was compared: it is empty for every feed"
        yield Finding("unverified" if nothing else "note", f"vacuous: {text}" if nothing else text)
    if still and len(still) + len(empty) == len(movements):
        names = ", ".join(still)
        text = f"vacuous: no output ({names}) of the reference depends on the input: the network is dead"
        yield Finding("unverified", text)
    elif still:
        yield Finding("note", f"outputs that do not depend on the input's values: {', '.join(still)}")


def _distance(a: Array, b: Array) -> float:
    return difference(a, b).error if a.shape == b.shape else float("inf")


def _batch_axis(signature: Signature) -> str | None:
    first = next((spec.shape[0] for spec in signature.inputs if spec.shape), None)
    return first if isinstance(first, str) and "+" not in first else None
