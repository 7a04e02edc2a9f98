"""Several texts continued together: shorter prompts are padded on the left, a row that has ended is fed on unheard."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np

from edgeai.errors import InputError, UsageError
from edgeai.runtime.engine import Engine
from edgeai.runtime.generation import CHUNK, GREEDY, never, prompt_ids, steps_after
from edgeai.runtime.kv_cache import IDS, Cache, Layout, context, open_cache
from edgeai.runtime.sampling import Sampling
from edgeai.spec import Array

T = TypeVar("T")


def generate_rows(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    stop_ids: Collection[int] = (),
    max_positions: int | None = None,
    chunk: int = CHUNK,
    cancelled: Callable[[], bool] = never,
    place: int = 0,
) -> Iterator[list[int | None]]:
    """Yield the next token id of every prompt, step by step; None for a row that has ended.

    Options and errors are those of `generate`. What a row draws follows from the seed and its place, which for the
    first row is `place`. More prompts than the model's batch axis allows are refused with InputError.
    """
    if chunk < 1:
        raise UsageError(f"chunk = {chunk}, must be at least 1")
    texts = [prompt_ids(prompt) for prompt in prompts]
    batch = widest_batch(engine)
    if not 1 <= len(texts) <= batch:
        raise InputError(f"{len(texts)} prompts in one batch, the model takes 1 to {batch}")
    longest = max(map(len, texts))
    steps = steps_after(max_new_tokens, longest, max_positions or context(engine.signature))
    cache = open_cache(engine, len(texts), longest + steps)
    random = [sampling.random(place + row) for row in range(len(texts))]
    return _continue(cache, texts, longest, steps, sampling, random, frozenset(stop_ids), chunk, cancelled)


def widest_batch(engine: Engine) -> int:
    """How many texts the model may be asked to continue at once. Raises UsageError for an engine that is no decoder."""
    Layout.of(engine.signature)
    (rows,) = (spec.shape[0] for spec in engine.signature.inputs if spec.name == IDS)
    return rows if isinstance(rows, int) else engine.signature.axis(rows).maximum


def in_groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """`items` in lists of `size`, the last one shorter; no item is taken before its group is asked for."""
    if size < 1:
        raise UsageError(f"batch = {size}, must be at least 1")
    iterator = iter(items)
    return iter(lambda: list(islice(iterator, size)), [])


def _continue(
    cache: Cache,
    texts: list[list[int]],
    longest: int,
    steps: int,
    sampling: Sampling,
    random: Sequence[np.random.Generator],
    stop_ids: frozenset[int],
    chunk: int,
    cancelled: Callable[[], bool],
) -> Iterator[list[int | None]]:
    ids, mask = _padded(texts, longest, steps)
    ended = [False] * len(texts)
    for end in range(longest, longest + steps):
        while cache.length < end:
            if cancelled():
                return
            stop = min(cache.length + chunk, end)
            logits = cache.advance(ids[:, cache.length : stop], mask[:, :stop], keep=1)
        tokens = list[int | None]()
        for row, text in enumerate(texts):
            token = 0 if ended[row] else sampling.choose(logits[row, -1], text, random[row])
            ended[row] = ended[row] or token in stop_ids
            tokens.append(None if ended[row] else token)
            text += [] if ended[row] else [token]
            ids[row, end] = 0 if ended[row] else token
        if all(ended):
            return
        yield tokens


def _padded(texts: list[list[int]], longest: int, steps: int) -> tuple[Array, Array]:
    """Token ids and mask (batch, longest+steps): the prompts end together, and what comes is real."""
    ids = np.zeros((len(texts), longest + steps), np.int64)
    mask = np.ones_like(ids)
    for row, text in enumerate(texts):
        ids[row, longest - len(text) : longest] = text
        mask[row, : longest - len(text)] = 0
    return ids, mask
