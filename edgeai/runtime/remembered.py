"""An engine that answers a question once: the reference that several candidates are compared with."""

from __future__ import annotations

from typing import final

from edgeai.runtime.engine import Engine
from edgeai.samples import digest
from edgeai.spec import Array, Feed, Signature


@final
class RememberedEngine:
    """Keeps the answers of `engine` up to `limit_bytes` in all; what is beyond is answered anew each time.

    Hides randomness from run to run, so it is for an engine that is known to repeat itself. Answers are read-only.
    """

    def __init__(self, engine: Engine, *, limit_bytes: int = 1 << 30) -> None:
        self._engine = engine
        self._free_bytes = limit_bytes
        self._answers: dict[str, dict[str, Array]] = {}

    @property
    def signature(self) -> Signature:
        return self._engine.signature

    def run(self, feed: Feed) -> dict[str, Array]:
        """Answer one feed. Raises what the engine raises, each time."""
        key = digest(feed)
        if key not in self._answers:
            answer = self._engine.run(feed)
            size = sum(array.nbytes for array in answer.values())
            if size > self._free_bytes:
                return answer
            for array in answer.values():
                array.flags.writeable = False
            self._free_bytes -= size
            self._answers[key] = answer
        return dict(self._answers[key])

    def close(self) -> None:
        """Forget the answers and close the engine. May be called twice."""
        self._answers.clear()
        self._engine.close()
