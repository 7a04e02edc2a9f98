"""The KV-cache loop gives the tokens that a forward pass over everything gives."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeai.errors import InputError, ResourceLimitError, UsageError
from edgeai.runtime.generation import Decoder, generate, generate_text
from edgeai.runtime.sampling import Sampling
from edgeai.runtime.session import Session
from edgeai.runtime.speculation import PromptLookup
from edgeai.runtime.tokenizer import Tokenizer

from .decoders import KINDS, Engines, scripted

Logits = Callable[[list[int]], np.ndarray]


@pytest.mark.parametrize("length", [1, 2, 7])
def test_greedy_tokens_equal_those_without_a_cache(decoder: Path, next_logits: Logits, length: int) -> None:
    prompt = list(range(3, 3 + length))
    ids = list(prompt)
    for _ in range(20):
        ids.append(int(next_logits(ids).argmax()))
    with Session(decoder) as session:
        assert list(generate(session, prompt, max_new_tokens=20)) == ids[length:]
        assert list(generate(session, np.array([prompt]), max_new_tokens=20, chunk=2)) == ids[length:]


@pytest.mark.parametrize("kind", KINDS)
def test_any_chunk_gives_the_same_tokens(engines: Engines, kind: str) -> None:
    prompt = np.random.default_rng(1).integers(0, 512, 17)
    answers = [list(generate(engines[kind], prompt, max_new_tokens=15, chunk=chunk)) for chunk in (1, 5, 17, 256)]
    assert answers == [list(generate(engines["handed"], prompt, max_new_tokens=15))] * 4


@pytest.mark.parametrize("kind", KINDS)
def test_guessing_changes_no_token(engines: Engines, kind: str) -> None:
    """Prompts that repeat themselves, so that guesses are made, some right and some wrong."""
    random = np.random.default_rng(0)
    saved = 0
    for number in range(40):
        phrase = random.integers(0, 512, random.integers(1, 6))
        prompt = np.tile(phrase, 4)[: random.integers(2, 16)]
        sampling = Sampling() if number % 4 else Sampling(0.3, top_k=3, repetition_penalty=1.1, seed=number)
        decoder = Decoder(engines[kind], positions=32)
        want = list(decoder.generate(prompt, max_new_tokens=16, sampling=sampling))
        runs = decoder.runs
        lookup = PromptLookup(1 + number % 5, 2, 1)
        got = list(
            Decoder(engines[kind], positions=32).generate(prompt, max_new_tokens=16, sampling=sampling, lookup=lookup)
        )
        assert got == want, f"prompt {prompt.tolist()}"
        again = Decoder(engines[kind], positions=32)
        for _ in again.generate(prompt, max_new_tokens=16, sampling=sampling, lookup=lookup):
            pass
        saved += runs - again.runs
    assert saved > 0, "no guess was ever right"


@pytest.mark.parametrize("kind", KINDS)
def test_what_two_prompts_share_is_computed_once(engines: Engines, kind: str) -> None:
    first = list(range(10, 20))
    decoder = Decoder(engines[kind], positions=32, chunk=1)
    said = list(decoder.generate(first, max_new_tokens=4))
    assert (decoder.reused, decoder.runs) == (0, 13)
    for prompt, reused in (
        ([*first, *said, 7, 8], 13),  # the last of `said` was never run
        ([*first[:5], 9], 5),
        ([*first[:5], 9], 5),  # the last token is always run again
        ([3], 0),
    ):
        answer = list(decoder.generate(prompt, max_new_tokens=3, lookup=PromptLookup(2, 1, 1)))
        assert decoder.reused == reused
        assert answer == list(generate(engines["handed"], prompt, max_new_tokens=3))


def test_sampling_follows_the_seed(decoder: Path) -> None:
    with Session(decoder) as session:

        def draw(seed: int, top_k: int | None = None, top_p: float | None = None) -> list[int]:
            sampling = Sampling(2.0, top_k, top_p, seed=seed)
            return list(generate(session, [5], max_new_tokens=30, sampling=sampling))

        assert draw(1) == draw(1)
        assert draw(1) != draw(2)
        assert draw(1, top_k=1) == draw(9, top_p=1e-9) == list(generate(session, [5], max_new_tokens=30))


def test_each_step_feeds_one_token_and_the_whole_past() -> None:
    engine = scripted([4, 5, 1], prompt=2)
    assert list(generate(engine, [2, 3], max_new_tokens=3)) == [4, 5, 1]
    assert [call["input_ids"].tolist() for call in engine.calls] == [[[2, 3]], [[4]], [[5]]]
    assert [call["attention_mask"].tolist() for call in engine.calls] == [[[1] * n] for n in (2, 3, 4)]
    assert [call["past_key_values.0.value"].ravel().tolist() for call in engine.calls] == [[], [2, 3], [2, 3, 4]]
    assert engine.calls[0]["past_key_values.0.key"].shape == (1, 1, 0, 1)


def test_ends_before_a_stop_token_and_at_the_context() -> None:
    assert list(generate(scripted([4, 5, 1]), [2], max_new_tokens=9, stop_ids={5})) == [4]
    engine = scripted([4, 5, 1, 1], prompt=2)
    assert list(generate(engine, [2, 3], max_new_tokens=9, max_positions=5)) == [4, 5, 1]
    assert len(engine.calls) == 3


def test_without_a_context_the_signature_s_is_the_end(engines: Engines, decoder: Path) -> None:
    assert len(list(generate(engines["in place"], [1, 2], max_new_tokens=10**9))) == 30
    with Session(decoder) as session, pytest.raises(ResourceLimitError, match="no memory for a KV cache"):
        generate(session, [1, 2], max_new_tokens=10**15)


def test_tokens_come_as_they_are_made() -> None:
    engine = scripted([4, 5])
    tokens = generate(engine, [2], max_new_tokens=2)
    assert not engine.calls
    assert (next(tokens), len(engine.calls)) == (4, 1)


def test_it_is_cancelled_at_any_token_and_between_chunks() -> None:
    cancel = threading.Event()
    engine = scripted([4, 5, 1], prompt=3)
    tokens = generate(engine, [1, 2, 3], max_new_tokens=3, chunk=1, cancelled=cancel.is_set)
    assert next(tokens) == 4
    cancel.set()
    assert list(tokens) == []
    assert len(engine.calls) == 3
    assert list(generate(engine, [1, 2, 3], max_new_tokens=3, cancelled=lambda: True)) == []
    assert list(generate(engine, [1, 2, 3], max_new_tokens=3, chunk=1, cancelled=lambda: len(engine.calls) > 4)) == []
    assert len(engine.calls) == 5, "the third token of the prompt was not run"


def test_a_decoder_goes_on_after_a_continuation_was_left_early(engines: Engines) -> None:
    decoder = Decoder(engines["in place"], positions=32)
    left = decoder.generate([1, 2, 3], max_new_tokens=9, lookup=PromptLookup(4, 1, 1))
    next(left)
    assert list(decoder.generate([1, 2, 3, 4], max_new_tokens=5)) == list(
        generate(engines["handed"], [1, 2, 3, 4], max_new_tokens=5)
    )
    assert decoder.reused == 3
    with pytest.raises(UsageError, match="another continuation has begun"):
        next(left)


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_id_that_the_model_does_not_have_is_refused(engines: Engines, kind: str) -> None:
    with pytest.raises(InputError, match="cannot compute"):
        list(generate(engines[kind], [1, 512], max_new_tokens=1))


def test_a_closed_session_is_refused(decoder: Path) -> None:
    session = Session(decoder)
    tokens = generate(session, [1], max_new_tokens=5)
    next(tokens)
    session.close()
    with pytest.raises(UsageError, match="closed"):
        next(tokens)
    with pytest.raises(UsageError, match="closed"):
        list(generate(session, [1], max_new_tokens=5))


@pytest.mark.parametrize(
    ("prompt", "options", "error", "reason"),
    [
        ([], {}, InputError, "expected at least one token id"),
        ([[1], [2]], {}, InputError, r"shape \(2, 1\), expected"),
        ([1.5], {}, InputError, "expected at least one token id"),
        ([3, -1], {}, InputError, "token id -1, which is negative"),
        ([1, 2], {"max_positions": 2}, InputError, "no room in a context of 2"),
        ([1], {"max_new_tokens": 0}, UsageError, "max_new_tokens = 0"),
        ([1], {"chunk": 0}, UsageError, "chunk = 0"),
    ],
)
def test_bad_requests_are_refused_at_the_call(prompt: Any, options: Any, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        generate(scripted([1]), prompt, **{"max_new_tokens": 1, **options})


def test_text_comes_in_whole_characters(byte_tokenizer: Path) -> None:
    tokenizer = Tokenizer.load(byte_tokenizer)
    said = [*"日".encode(), 256, *"é".encode()[:1], 257]

    def pieces(**options: Any) -> list[str]:
        engine = scripted(said, vocabulary=258, prompt=2)
        found = list(generate_text(engine, tokenizer, "the", max_new_tokens=9, stop_ids=[257], **options))
        assert engine.calls[0]["input_ids"].tolist() == [[256, ord("e")]]
        return found

    assert pieces() == ["日", "th", "\ufffd"]
    assert pieces(stop=["th"]) == ["日"]
    assert pieces(stop=["hx", "t"]) == ["日"]
    with pytest.raises(UsageError, match="must be a list of texts"):
        pieces(stop=[""])
