"""An engine without a model, for tests of whatever drives one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import final

import numpy as np

from edgeai.errors import UsageError
from edgeai.spec import Array, Feed, Signature

Answer = Callable[[Feed], Mapping[str, Array]]


@final
class FakeEngine:
    """Implements `Engine`: checks each feed against the signature, keeps it in `calls`, and answers as scripted.

    `answer` is a function of the feed, or one fixed answer for all.
    """

    def __init__(self, signature: Signature, answer: Answer | Mapping[str, Array]) -> None:
        self.signature = signature
        self.calls: list[dict[str, Array]] = []
        self.closed = False
        self._answer = answer

    def run(self, feed: Feed) -> dict[str, Array]:
        """Raises InputError for a feed that does not fit, UsageError after `close` or for a script that does not."""
        if self.closed:
            raise UsageError("the engine is closed")
        self.signature.check(feed)
        self.calls.append({name: np.array(array) for name, array in feed.items()})
        answer = dict(self._answer if isinstance(self._answer, Mapping) else self._answer(feed))
        if set(answer) != set(self.signature.output_names):
            raise UsageError(f"scripted answer has {sorted(answer)}, not {sorted(self.signature.output_names)}")
        return {name: answer[name] for name in self.signature.output_names}

    def close(self) -> None:
        self.closed = True
