"""Where a text ends, and when a piece of it may be shown: whole characters, and no part of a stop string."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import final

from edgeai.errors import UsageError
from edgeai.runtime.tokenizer import Tokenizer


@final
class StopStrings:
    """Finds the first of `stops` in a text that comes in pieces, and lets nothing of it through.

    The first is the one that is complete first (of several that end there, the longest), as if the text came character
    by character: however it is cut into tokens, it ends at the same place.
    Raises UsageError for an empty stop string.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if isinstance(stops, str) or not all(isinstance(stop, str) and stop for stop in stops):
            raise UsageError(f"stop = {stops!r}, must be a list of texts that are not empty")
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """What may be shown now: all but an end that could become a stop string. Nothing after one was found."""
        if self.stopped:
            return ""
        text = self._held + piece
        found = [(place + len(stop), place) for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """What was held back, when no more comes."""
        rest, self._held = self._held, ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    return next(
        (length for length in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-length:])), 0
    )


def pieces(tokenizer: Tokenizer, tokens: Iterable[int], stop: Sequence[str] = ()) -> Iterator[str]:
    """`tokens` as text, in pieces of whole characters, up to the first stop string.

    Takes no token more than it needs. Raises UsageError for an empty stop string, at the call.
    """
    return _pieces(tokenizer, tokens, StopStrings(stop))


def _pieces(tokenizer: Tokenizer, tokens: Iterable[int], stops: StopStrings) -> Iterator[str]:
    stream = tokenizer.stream()
    for token in tokens:
        if piece := stops.push(stream.push(token)):
            yield piece
        if stops.stopped:
            return
    if rest := stops.push(stream.flush()) + stops.flush():
        yield rest
