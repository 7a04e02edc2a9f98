"""Guesses at the next tokens, to be checked by the model in one run: what followed the same words before.

Prompt lookup (Saxena, 2023, https://github.com/apoorvumang/prompt-lookup-decoding) needs no second model. A wrong
guess costs time and never changes a token: the model has the last word on each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeai.errors import UsageError


@dataclass(frozen=True)
class PromptLookup:
    """Guess up to `tokens` tokens: those that followed the last time that the text had its last words.

    The last `longest` tokens are looked for first, then fewer, down to `shortest`.
    Raises UsageError for a value out of range.
    """

    tokens: int = 8
    longest: int = 3
    shortest: int = 2

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise UsageError(f"lookup: tokens = {self.tokens}, must be at least 1")
        if not 1 <= self.shortest <= self.longest:
            raise UsageError(f"lookup: {self.shortest}..{self.longest} tokens are nothing to look for")

    def propose(self, text: Sequence[int], limit: int) -> list[int]:
        """At most `limit` token ids that may continue `text`; none where nothing like its end occurred before."""
        count = min(self.tokens, limit)
        if count < 1:
            return []
        ids = np.asarray(text, np.int64)
        for size in range(min(self.longest, len(ids) - 1), self.shortest - 1, -1):
            windows = np.lib.stride_tricks.sliding_window_view(ids[:-1], size)
            places = np.flatnonzero((windows == ids[-size:]).all(1))
            if len(places):
                starts = places + size
                # the last that is followed by enough; where a text repeats itself closely, the one followed by most
                enough = starts[starts + count <= len(ids)]
                start = int(enough[-1] if len(enough) else starts[0])
                return [int(token) for token in ids[start : start + count]]
        return []
