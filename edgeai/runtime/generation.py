"""Text from a decoder with a KV cache: one graph, first over the prompt (prefill), then one token at a time (decode).

What the graph looks like stands in `edgeai.runtime.kv_cache`, how a token is chosen in `edgeai.runtime.sampling`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import final

import numpy as np

from edgeai.errors import InputError, UsageError
from edgeai.runtime.engine import Engine
from edgeai.runtime.kv_cache import context, open_cache
from edgeai.runtime.sampling import Sampling
from edgeai.runtime.speculation import PromptLookup
from edgeai.runtime.stopping import pieces
from edgeai.runtime.tokenizer import Tokenizer
from edgeai.spec import Array

GREEDY = Sampling()
# Tokens of a prompt in one run: more save little time and cost memory, above all for their logits.
CHUNK = 256


def never() -> bool:
    """Nothing cancels this."""
    return False


@final
class Decoder:
    """One text in the making: an engine with a cache of `positions` tokens that outlives a continuation.

    `generate` computes only what a prompt does not share with the text that the cache holds. One continuation at a
    time, one thread at a time; the engine may be shared. Raises UsageError for an engine that is no decoder.
    """

    def __init__(self, engine: Engine, *, positions: int, chunk: int = CHUNK) -> None:
        if positions < 1 or chunk < 1:
            raise UsageError(f"positions = {positions} and chunk = {chunk} must be at least 1")
        self._cache = open_cache(engine, 1, positions)
        self._mask = np.ones((1, positions), np.int64)  # each run sees the beginning of it
        self._chunk = chunk
        self._ids: list[int] = []  # of the tokens that the cache holds
        self._turn = 0
        self.reused = 0
        self.runs = 0

    def generate(
        self,
        input_ids: Sequence[int] | Array,
        *,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        stop_ids: Collection[int] = (),
        lookup: PromptLookup | None = None,
        cancelled: Callable[[], bool] = never,
    ) -> Iterator[int]:
        """Yield token ids that continue `input_ids` (seq,), each as soon as it is known; see `generate`.

        `reused` is then how many tokens of the prompt were in the cache, `runs` how often the model was run.
        """
        prompt = prompt_ids(input_ids)
        steps = steps_after(max_new_tokens, len(prompt), self._cache.capacity)
        self._turn += 1
        return self._continue(prompt, steps, sampling, frozenset(stop_ids), lookup, cancelled, self._turn)

    def _continue(
        self,
        text: list[int],
        steps: int,
        sampling: Sampling,
        stop_ids: frozenset[int],
        lookup: PromptLookup | None,
        cancelled: Callable[[], bool],
        turn: int,
    ) -> Iterator[int]:
        self._refuse_old(turn)
        random, end, guess, self.runs = sampling.random(), len(text) + steps, list[int](), 0
        self.reused = min(_shared(self._ids, text), len(text) - 1)  # the last token is run again for its logits
        self._keep(self.reused)
        while not cancelled():
            logits = self._run((text[len(self._ids) :] + guess)[: self._chunk], keep=len(guess) + 1)
            if len(self._ids) < len(text):
                continue  # the prompt goes on
            # Row i holds the logits after `text` and i guesses, which count as long as the guesses were right.
            for row, logits_after in enumerate(logits):
                token = sampling.choose(logits_after, text, random)
                if token in stop_ids:
                    return
                text.append(token)
                yield token
                self._refuse_old(turn)
                if len(text) == end or cancelled():
                    return
                if row == len(guess) or guess[row] != token:
                    break
            self._keep(len(text) - 1)
            guess = lookup.propose(text, min(end - len(text) - 1, self._chunk - 1)) if lookup else []

    def _run(self, ids: list[int], *, keep: int) -> Array:
        """Logits (keep, vocab) after the last of `ids`, which the cache now holds."""
        total = len(self._ids) + len(ids)
        logits: Array = self._cache.advance(np.array([ids], np.int64), self._mask[:, :total], keep=keep)[0]
        self._ids += ids
        self.runs += 1
        return logits

    def _keep(self, length: int) -> None:
        if length < len(self._ids):
            self._cache.truncate(length)
            del self._ids[length:]

    def _refuse_old(self, turn: int) -> None:
        if turn != self._turn:
            raise UsageError("another continuation has begun", hint="use one decoder for each text in the making")


def generate(
    engine: Engine,
    input_ids: Sequence[int] | Array,
    *,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    stop_ids: Collection[int] = (),
    max_positions: int | None = None,
    lookup: PromptLookup | None = None,
    chunk: int = CHUNK,
    cancelled: Callable[[], bool] = never,
) -> Iterator[int]:
    """Yield token ids that continue `input_ids` (seq,), each as soon as it is known.

    Ends after `max_new_tokens`, before a token in `stop_ids`, when prompt and continuation fill `max_positions`, the
    model's context (default: the signature's), or when `cancelled()` says so, which is asked before every run and
    after every token; closing the iterator ends it too. The prompt is run `chunk` tokens at a time. With `lookup`,
    guesses are checked several at a time: the tokens stay the same, as far as the model's answer does not depend on
    how many tokens it is asked at once (dynamically quantized activations do).

    Arguments are checked at the call: raises UsageError for an engine that is no such decoder or an option out of
    range, InputError for an empty prompt or one that leaves no room in the context.
    """
    prompt = prompt_ids(input_ids)
    room = max_positions or context(engine.signature)
    positions = len(prompt) + steps_after(max_new_tokens, len(prompt), room)
    decoder = Decoder(engine, positions=positions, chunk=chunk)
    return decoder.generate(
        prompt, max_new_tokens=max_new_tokens, sampling=sampling, stop_ids=stop_ids, lookup=lookup, cancelled=cancelled
    )


def generate_text(
    engine: Engine,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    stop_ids: Collection[int] = (),
    stop: Sequence[str] = (),
    max_positions: int | None = None,
    lookup: PromptLookup | None = None,
    cancelled: Callable[[], bool] = never,
) -> Iterator[str]:
    """Like `generate`, from text to text: pieces of whole characters that, joined, continue `prompt`.

    Ends before the first of the texts in `stop` too.
    """
    tokens = generate(
        engine,
        tokenizer.encode(prompt),
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        stop_ids=stop_ids,
        max_positions=max_positions,
        lookup=lookup,
        cancelled=cancelled,
    )
    return pieces(tokenizer, tokens, stop)


def prompt_ids(input_ids: Sequence[int] | Array) -> list[int]:
    """Token ids of one text. Raises InputError for none, for several rows, and for what is no id."""
    ids = np.atleast_2d(np.asarray(input_ids))
    if ids.ndim != 2 or ids.shape[0] != 1 or not ids.shape[1] or ids.dtype.kind not in "iu":
        raise InputError(f"the prompt has shape {np.shape(input_ids)}, expected at least one token id in one row")
    if ids.min() < 0:
        raise InputError(f"the prompt has the token id {ids.min()}, which is negative")
    return [int(token) for token in ids[0]]


def steps_after(max_new_tokens: int, length: int, max_positions: int | None) -> int:
    """How many tokens may follow a prompt of `length` tokens."""
    if max_new_tokens < 1:
        raise UsageError(f"max_new_tokens = {max_new_tokens}, must be at least 1")
    if max_positions is None:
        return max_new_tokens
    if length >= max_positions:
        raise InputError(
            f"the prompt has {length} tokens, which leaves no room in a context of {max_positions}",
            hint="shorten the prompt",
        )
    return min(max_new_tokens, max_positions - length)


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next(
        (place for place, (one, other) in enumerate(zip(first, second, strict=False)) if one != other),
        min(len(first), len(second)),
    )
