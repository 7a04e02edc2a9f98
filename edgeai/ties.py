"""Integers that come out of nearly equal floats (argmax, top k, sort): a disagreement that is nobody's fault.

Which of two nearly equal values is the larger is decided by rounding, and the two sides round differently. The
reference itself tells where that is so: its integers change there when its float inputs move by a few units in the
last place. Where they do not change, the answer is settled, and a candidate that answers otherwise is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from edgeai.agreement import Finding
from edgeai.comparison import EPSILON, is_float, scale_of
from edgeai.errors import EdgeAIError
from edgeai.runtime.engine import Engine
from edgeai.spec import Array, Feed

# Rounding happens in every layer and here only the inputs move: twelve layers decide ties that 8 ulps do not turn.
_ULPS = 16
_RUNS = 16  # a tie of two falls the same way in all of them once in 65536 times
# Of an output that is nearly all ties nothing can be proven: (1e9 * x).long() would excuse any answer.
_MOST = 0.25


class Ties:
    """What was excused so far, by output: how many elements of how many, and where the first was."""

    def __init__(self, reference: Engine) -> None:
        self._reference = reference
        self._generator = np.random.default_rng(0)
        self._scales: dict[str, float] = {}  # an input of zeros moves by what its other feeds are made of
        self._seen: dict[str, int] = {}
        self._excused: dict[str, int] = {}
        self._first: dict[str, str] = {}
        self._wrong: set[str] = set()

    def settle(
        self, feed: Feed, description: str, expected: Mapping[str, Array], actual: Mapping[str, Array]
    ) -> dict[str, Array]:
        """`actual` with the reference's integers put where the reference's own answer hangs on rounding."""
        for name, array in feed.items():
            self._scales[name] = max(self._scales.get(name, 0.0), scale_of(array))
        settled = dict(actual)
        differing = {}
        for name, array in expected.items():
            if array.dtype.kind in "iu" and (array.dtype, array.shape) == (actual[name].dtype, actual[name].shape):
                self._seen[name] = self._seen.get(name, 0) + array.size
                if name not in self._wrong and (wrong := np.asarray(array != actual[name])).any():
                    differing[name] = wrong
        unsettled = self._unsettled(feed, expected, differing) if differing else {}
        for name, wrong in differing.items():
            tied = wrong & unsettled[name]
            if (wrong & ~tied).any():
                self._wrong.add(name)
            if tied.any():
                place = tuple(int(i) for i in np.argwhere(tied)[0])
                values = f"{expected[name][place]} became {actual[name][place]} at {description}"
                self._first.setdefault(name, f"{name}[{', '.join(map(str, place))}] {values}")
                self._excused[name] = self._excused.get(name, 0) + int(tied.sum())
                settled[name] = np.where(tied, expected[name], actual[name])
        return settled

    def findings(self) -> Iterator[Finding]:
        for name, count in self._excused.items():
            text = f"tie: {self._first[name]}, where rounding decides in the reference too"
            share = f"{count} of {self._seen[name]} elements of output {name}"
            if count > _MOST * self._seen[name]:
                yield Finding("failed", f"{text}; with {share} it cannot be told from a fault")
            else:
                yield Finding("note", f"{text} ({share})")

    def _unsettled(self, feed: Feed, expected: Mapping[str, Array], differing: Mapping[str, Array]) -> dict[str, Array]:
        """Where the reference answers otherwise to a feed that rounding could have made of this one."""
        unsettled = {name: np.zeros(expected[name].shape, np.bool_) for name in differing}
        if not any(is_float(array) for array in feed.values()):
            return unsettled
        for _ in range(_RUNS):
            try:
                answer = self._reference.run({name: self._moved(name, array) for name, array in feed.items()})
            except EdgeAIError:  # a feed at the very edge of what the reference takes: it shows nothing
                continue
            for name, found in unsettled.items():
                if answer[name].shape == found.shape:
                    found |= answer[name] != expected[name]
            if all((found | ~differing[name]).all() for name, found in unsettled.items()):
                break
        return unsettled

    def _moved(self, name: str, array: Array) -> Array:
        if not is_float(array):
            return array.copy()
        size = np.maximum(np.abs(array.astype(np.float64)), self._scales[name])
        step = _ULPS * EPSILON.get(array.dtype.name, 0.0) * size
        return (array.astype(np.float64) + step * self._generator.uniform(-1, 1, array.shape)).astype(array.dtype)
