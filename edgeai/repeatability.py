"""Does an engine answer one feed in one way, every time, and leave the feed alone?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgeai.agreement import Finding
from edgeai.comparison import EPSILON, difference
from edgeai.errors import EdgeAIError
from edgeai.runtime.engine import Engine
from edgeai.spec import Array, Feed

# Threads may add in another order from run to run, which moves the last bits; nothing honest moves more.
_ULPS = 8


@dataclass(frozen=True)
class Witness:
    """One feed that both sides have answered."""

    feed: Feed
    description: str
    sizes: Mapping[str, int]
    expected: Mapping[str, Array]
    actual: Mapping[str, Array]


def run_aside(engine: Engine, feed: Feed) -> tuple[dict[str, Array], tuple[str, ...]]:
    """The outputs for a copy of `feed`, as copies, and the inputs that the engine wrote into.

    Neither a module that works in place nor an engine that uses its output buffers again can then change what the
    other side is given, or what was answered before. Raises what `engine.run` raises.
    """
    given = {name: array.copy() for name, array in feed.items()}
    outputs = {name: array.copy() for name, array in engine.run(given).items()}
    return outputs, tuple(name for name, array in feed.items() if not _identical(array, given[name]))


def changes_from_run_to_run(
    engine: Engine, who: str, answered: Sequence[tuple[Feed, Mapping[str, Array]]], *, double: bool
) -> Iterator[Finding]:
    """Run feeds that were answered before once more: a finding for every output that is not the same again.

    Where float64 does not go in (`double` is false), a float64 output may well have been computed in float32.
    """
    told: set[str] = set()
    for feed, before in answered:
        try:
            again, _ = run_aside(engine, feed)
        except EdgeAIError as error:
            yield Finding("failed", f"the {who} refuses a feed that it took before: {error}")
            return
        for name, array in before.items():
            moved = difference(array, again[name]).error if array.shape == again[name].shape else float("inf")
            if moved > _bound(array, double) and name not in told:
                told.add(name)
                text = f"output {name} of the {who} changes from run to run on the same feed: it is random"
                yield Finding("failed", f"{text}, or keeps something from earlier runs (moved by {moved:.1g})")


def _bound(array: Array, double: bool) -> float:
    """How far an output may move, in units of its scale; 0 for what is no float."""
    dtype = "float32" if array.dtype.name == "float64" and not double else array.dtype.name
    return _ULPS * EPSILON.get(dtype, 0.0)


def _identical(a: Array, b: Array) -> bool:
    if a.dtype.kind == "O":  # the bytes of an object array are addresses
        return a.shape == b.shape and bool((a == b).all())
    return a.tobytes() == b.tobytes()
