"""Prompts to continuations, from a bundle: one text, several at once, or a conversation that keeps its cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

from edgeai.errors import UsageError
from edgeai.runtime.engine import Engine
from edgeai.runtime.generation import GREEDY, Decoder, generate_text, never
from edgeai.runtime.kv_cache import context
from edgeai.runtime.padded import generate_rows, in_groups, widest_batch
from edgeai.runtime.sampling import Sampling
from edgeai.runtime.speculation import PromptLookup
from edgeai.runtime.stopping import pieces
from edgeai.runtime.tokenizer import Tokenizer

_MAX_NEW_TOKENS = 64


@dataclass(frozen=True)
class TextGeneration:
    """Answers end before an end-of-text token, one of `stop_ids`."""

    name: str
    engine: Engine
    tokenizer: Tokenizer
    max_positions: int | None
    stop_ids: tuple[int, ...]

    def __call__(self, item: str) -> str:
        return "".join(self.stream(item))

    def stream(
        self,
        prompt: str,
        *,
        max_new_tokens: int = _MAX_NEW_TOKENS,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
        lookup: PromptLookup | None = None,
        cancelled: Callable[[], bool] = never,
    ) -> Iterator[str]:
        """See `edgeai.runtime.generation.generate_text` and, for how tokens are chosen, `Sampling`."""
        return generate_text(
            self.engine,
            self.tokenizer,
            prompt,
            max_new_tokens=max_new_tokens,
            sampling=Sampling(temperature, top_k, top_p, repetition_penalty, seed),
            stop_ids=self.stop_ids,
            stop=stop,
            max_positions=self.max_positions,
            lookup=lookup,
            cancelled=cancelled,
        )

    def batch(
        self,
        items: Sequence[str],
        *,
        max_new_tokens: int = _MAX_NEW_TOKENS,
        sampling: Sampling = GREEDY,
        stop: Sequence[str] = (),
    ) -> list[str]:
        """The continuations of several prompts, in order, as many together as the model's batch axis allows.

        What a prompt draws follows from the seed and its place among `items`, whatever stands beside it.
        """
        widest = widest_batch(self.engine)
        return [
            text
            for number, group in enumerate(in_groups(items, widest))
            for text in self._together(group, max_new_tokens, sampling, stop, place=number * widest)
        ]

    def map(self, items: Iterable[str], *, batch: int = 16) -> Iterator[str]:
        """The continuations of any number of prompts, taken `batch` at a time."""
        return (text for group in in_groups(items, batch) for text in self.batch(group))

    def conversation(self) -> Conversation:
        """For texts that each begin as the last one did."""
        return Conversation(self)

    def _together(
        self, prompts: Sequence[str], max_new_tokens: int, sampling: Sampling, stop: Sequence[str], *, place: int
    ) -> Iterator[str]:
        ids = [self.tokenizer.encode(prompt) for prompt in prompts]
        longest = max(map(len, ids))
        # Where the longest prompt would end the others before their time, each is continued alone.
        room = self.max_positions or context(self.engine.signature)
        together = room is None or longest + max_new_tokens <= room
        for group in [ids] if together else [[row] for row in ids]:
            steps = generate_rows(
                self.engine,
                group,
                max_new_tokens=max_new_tokens,
                sampling=sampling,
                stop_ids=self.stop_ids,
                max_positions=self.max_positions,
                place=place,
            )
            place += len(group)
            rows = list(zip(*steps, strict=True)) or [()] * len(group)  # nothing where every row ended at once
            for row in rows:
                yield "".join(pieces(self.tokenizer, (token for token in row if token is not None), stop))


@final
class Conversation:
    """Keeps the cache between turns: of each prompt only what is new since the last turn is computed.

    One turn at a time. `reused` tells how many tokens of the last prompt were not computed again. Raises UsageError
    where nothing says how long a text may be.
    """

    def __init__(self, task: TextGeneration) -> None:
        positions = task.max_positions or context(task.engine.signature)
        if positions is None:
            raise UsageError("neither bundle nor model says how long a text may be", hint="pack it with max_positions")
        self._task, self._decoder = task, Decoder(task.engine, positions=positions)

    @property
    def reused(self) -> int:
        return self._decoder.reused

    def stream(
        self,
        prompt: str,
        *,
        max_new_tokens: int = _MAX_NEW_TOKENS,
        sampling: Sampling = GREEDY,
        stop: Sequence[str] = (),
        lookup: PromptLookup | None = None,
        cancelled: Callable[[], bool] = never,
    ) -> Iterator[str]:
        """Continue `prompt`, the whole conversation so far; see `TextGeneration.stream`."""
        tokenizer = self._task.tokenizer
        tokens = self._decoder.generate(
            tokenizer.encode(prompt),
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop_ids=self._task.stop_ids,
            lookup=lookup,
            cancelled=cancelled,
        )
        return pieces(tokenizer, tokens, stop)
