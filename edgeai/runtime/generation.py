"""Text from a decoder with a KV cache: one graph, first over the prompt (prefill), then one token at a time (decode).

The graph takes `input_ids` int64 (batch, seq), `attention_mask` int64 (batch, past+seq) and, for each layer i,
`past_key_values.{i}.key` and `.value` float (batch, heads, past, head_size); it gives `logits` (batch, seq, vocab) and
`present.{i}.key` and `.value` (batch, heads, past+seq, head_size), which are the next step's past as they are.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgeai.errors import InputError, UsageError, VerificationError
from edgeai.runtime.engine import Engine
from edgeai.runtime.tokenizer import Tokenizer
from edgeai.spec import Array, Signature

_IDS, _MASK, _LOGITS = "input_ids", "attention_mask", "logits"
_PAST, _PRESENT = "past_key_values.", "present."


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Temperature 0 is greedy: the most likely token.

    Otherwise: divide the logits by `temperature`, keep the `top_k` most likely tokens, keep of these the fewest that
    hold `top_p` of the probability (Holtzman et al., 2020, arXiv:1904.09751), and draw. The same seed draws the same.
    Raises UsageError for a value out of range, or a limit that greedy choice would ignore.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise UsageError(f"temperature = {self.temperature}, must be 0 (greedy) or a positive number")
        if self.top_k is not None and self.top_k < 1:
            raise UsageError(f"top_k = {self.top_k}, must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UsageError(f"top_p = {self.top_p}, must be above 0 and at most 1")
        if self.seed is not None and self.seed < 0:
            raise UsageError(f"seed = {self.seed}, must not be negative")
        if self.temperature == 0 and (self.top_k is not None or self.top_p is not None):
            raise UsageError("top_k and top_p do nothing at temperature 0", hint="set a temperature, such as 0.8")

    def choose(self, logits: Array, random: np.random.Generator) -> int:
        """Token id from logits (vocab,). Raises VerificationError for NaN, which no healthy model gives."""
        if np.isnan(logits).any():
            raise VerificationError("the model's logits hold NaN", hint="verify the model against its reference")
        if self.temperature == 0:
            return int(logits.argmax())
        scaled = logits.astype(np.float64) / self.temperature
        order = np.argsort(-scaled, kind="stable")[: self.top_k]
        weights = np.exp(scaled[order] - scaled[order[0]])
        cumulative = np.cumsum(weights / weights.sum())
        if self.top_p is not None:
            # min: rounding may leave the sum of all just below top_p = 1.
            kept = min(int(np.searchsorted(cumulative, self.top_p)) + 1, len(cumulative))
            order, cumulative = order[:kept], cumulative[:kept] / cumulative[kept - 1]
        return int(order[min(int(np.searchsorted(cumulative, random.random(), side="right")), len(order) - 1)])


def generate(
    engine: Engine,
    input_ids: Sequence[int] | Array,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop_ids: Collection[int] = (),
    max_positions: int | None = None,
) -> Iterator[int]:
    """Yield token ids that continue `input_ids` (seq,), each as soon as it is known.

    Ends after `max_new_tokens`, before a token in `stop_ids`, or when prompt and continuation fill `max_positions`,
    the model's context. Arguments are checked at the call: raises UsageError for an engine that is no such decoder or
    an option out of range, InputError for an empty prompt or one that leaves no room in the context.
    """
    cache = _cache_names(engine.signature)
    sampling = Sampling(temperature, top_k, top_p, seed)
    prompt = np.atleast_2d(np.asarray(input_ids, np.int64))  # (1, seq)
    if max_new_tokens < 1:
        raise UsageError(f"max_new_tokens = {max_new_tokens}, must be at least 1")
    if prompt.ndim != 2 or prompt.shape[0] != 1 or not prompt.shape[1]:
        raise InputError(f"the prompt has shape {np.shape(input_ids)}, expected at least one token id in one row")
    if max_positions is not None and prompt.shape[1] >= max_positions:
        raise InputError(
            f"the prompt has {prompt.shape[1]} tokens, which leaves no room in a context of {max_positions}",
            hint="shorten the prompt",
        )
    steps = max_new_tokens if max_positions is None else min(max_new_tokens, max_positions - prompt.shape[1])
    return _decode(engine, cache, prompt, steps, sampling, frozenset(stop_ids))


def _decode(
    engine: Engine,
    cache: dict[str, str],
    prompt: Array,
    steps: int,
    sampling: Sampling,
    stop_ids: frozenset[int],
) -> Iterator[int]:
    random = np.random.default_rng(sampling.seed)
    mask = np.ones((1, prompt.shape[1] + steps), np.int64)  # one buffer: each step sees more of it
    feed = {_IDS: prompt, **_empty_cache(engine.signature, cache)}
    for step in range(steps):
        feed[_MASK] = mask[:, : prompt.shape[1] + step]
        answer = engine.run(feed)
        token = sampling.choose(answer[_LOGITS][0, -1], random)
        if token in stop_ids:
            return
        yield token
        feed = {_IDS: np.array([[token]], np.int64), **{past: answer[present] for past, present in cache.items()}}


def generate_text(
    engine: Engine,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop_ids: Collection[int] = (),
    max_positions: int | None = None,
) -> Iterator[str]:
    """Like `generate`, from text to text: pieces of whole characters that, joined, continue `prompt`."""
    tokens = generate(
        engine,
        tokenizer.encode(prompt),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop_ids=stop_ids,
        max_positions=max_positions,
    )
    return _pieces(tokenizer, tokens)


def _pieces(tokenizer: Tokenizer, tokens: Iterator[int]) -> Iterator[str]:
    stream = tokenizer.stream()
    for token in tokens:
        if piece := stream.push(token):
            yield piece
    if rest := stream.flush():
        yield rest


def _cache_names(signature: Signature) -> dict[str, str]:
    """past input -> present output. Raises UsageError if the signature is not that of a decoder with a KV cache."""
    cache = {name: _PRESENT + name.removeprefix(_PAST) for name in signature.input_names if name.startswith(_PAST)}
    inputs, outputs = {_IDS, _MASK, *cache}, {_LOGITS, *cache.values()}
    if not cache or inputs != set(signature.input_names) or not outputs <= set(signature.output_names):
        odd = sorted(inputs ^ set(signature.input_names)) + sorted(outputs - set(signature.output_names))
        raise UsageError(
            f"the model is no decoder with a KV cache ({', '.join(odd) or 'it has no past_key_values inputs'})",
            hint="export it for text generation",
        )
    return cache


def _empty_cache(signature: Signature, cache: dict[str, str]) -> dict[str, Array]:
    empty = {}
    for spec in signature.inputs:
        if spec.name in cache:
            _, heads, _, head_size = spec.shape if len(spec.shape) == 4 else (0, "", 0, "")
            if not isinstance(heads, int) or not isinstance(head_size, int):
                raise UsageError(f"{spec}: expected (batch, heads, past, head_size) with fixed heads and head_size")
            empty[spec.name] = np.zeros((1, heads, 0, head_size), spec.dtype)
    return empty
