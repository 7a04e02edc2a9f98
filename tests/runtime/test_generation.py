"""The KV-cache loop gives the tokens that a forward pass over everything gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeai.errors import InputError, UsageError, VerificationError
from edgeai.runtime.generation import Sampling, generate, generate_text
from edgeai.runtime.session import Session
from edgeai.runtime.testing import FakeEngine
from edgeai.runtime.tokenizer import Tokenizer
from edgeai.spec import Signature, TensorSpec

Logits = Callable[[list[int]], np.ndarray]


@pytest.mark.parametrize("length", [1, 2, 7])
def test_greedy_tokens_equal_those_without_a_cache(decoder: Path, next_logits: Logits, length: int) -> None:
    prompt = list(range(3, 3 + length))
    ids = list(prompt)
    for _ in range(20):
        ids.append(int(next_logits(ids).argmax()))
    with Session(decoder) as session:
        assert list(generate(session, prompt, max_new_tokens=20)) == ids[length:]
        assert list(generate(session, np.array([prompt]), max_new_tokens=20)) == ids[length:]


def test_sampling_follows_the_seed(decoder: Path) -> None:
    with Session(decoder) as session:

        def draw(seed: int, **limits: Any) -> list[int]:
            return list(generate(session, [5], max_new_tokens=30, temperature=2.0, seed=seed, **limits))

        assert draw(1) == draw(1)
        assert draw(1) != draw(2)
        assert draw(1, top_k=1) == draw(9, top_p=1e-9) == list(generate(session, [5], max_new_tokens=30))


def scripted(tokens: list[int], vocabulary: int = 6) -> FakeEngine:
    """A decoder that says `tokens` in turn, whatever it is asked; its cache holds the ids it has seen."""
    cache = ("batch", 1, "past", 1)
    signature = Signature(
        (
            TensorSpec("input_ids", "int64", ("batch", "seq")),
            TensorSpec("attention_mask", "int64", ("batch", "total")),
            TensorSpec("past_key_values.0.key", "float16", cache),
            TensorSpec("past_key_values.0.value", "float16", cache),
        ),
        tuple(TensorSpec(name, "float16", ()) for name in ("logits", "present.0.key", "present.0.value")),
    )
    said = iter(tokens)

    def answer(feed: Any) -> dict[str, np.ndarray]:
        ids, past = feed["input_ids"], feed["past_key_values.0.key"]
        present = np.concatenate([past, ids[:, None, :, None].astype(np.float16)], axis=2)
        assert feed["attention_mask"].tolist() == [[1] * present.shape[2]]
        logits = np.zeros((1, ids.shape[1], vocabulary), np.float16)
        logits[0, -1, next(said)] = 1
        return {"logits": logits, "present.0.key": present, "present.0.value": present}

    return FakeEngine(signature, answer)


def test_each_step_feeds_one_token_and_the_whole_past() -> None:
    engine = scripted([4, 5, 1])
    assert list(generate(engine, [2, 3], max_new_tokens=3)) == [4, 5, 1]
    assert [call["input_ids"].tolist() for call in engine.calls] == [[[2, 3]], [[4]], [[5]]]
    assert [call["past_key_values.0.value"].ravel().tolist() for call in engine.calls] == [[], [2, 3], [2, 3, 4]]
    assert engine.calls[0]["past_key_values.0.key"].shape == (1, 1, 0, 1)


def test_ends_before_a_stop_token_and_at_the_context() -> None:
    assert list(generate(scripted([4, 5, 1]), [2], max_new_tokens=9, stop_ids={5})) == [4]
    engine = scripted([4, 5, 1, 1])
    assert list(generate(engine, [2, 3], max_new_tokens=9, max_positions=5)) == [4, 5, 1]
    assert len(engine.calls) == 3


def test_tokens_come_as_they_are_made() -> None:
    engine = scripted([4, 5])
    tokens = generate(engine, [2], max_new_tokens=2)
    assert not engine.calls
    assert (next(tokens), len(engine.calls)) == (4, 1)


@pytest.mark.parametrize(
    ("prompt", "options", "error", "reason"),
    [
        ([], {}, InputError, "expected at least one token id"),
        ([[1], [2]], {}, InputError, r"shape \(2, 1\), expected"),
        ([1, 2], {"max_positions": 2}, InputError, "no room in a context of 2"),
        ([1], {"max_new_tokens": 0}, UsageError, "max_new_tokens = 0"),
        ([1], {"temperature": -1}, UsageError, "temperature = -1"),
        ([1], {"temperature": float("nan")}, UsageError, "temperature = nan"),
        ([1], {"temperature": 1, "top_k": 0}, UsageError, "top_k = 0"),
        ([1], {"temperature": 1, "top_p": 1.5}, UsageError, "top_p = 1.5"),
        ([1], {"temperature": 1, "seed": -1}, UsageError, "seed = -1"),
        ([1], {"top_k": 5}, UsageError, "do nothing at temperature 0"),
    ],
)
def test_bad_requests_are_refused_at_the_call(prompt: Any, options: Any, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        generate(scripted([1]), prompt, **{"max_new_tokens": 1, **options})


def test_an_engine_that_is_no_decoder_is_refused(double: Path) -> None:
    with Session(double) as session, pytest.raises(UsageError, match="no decoder with a KV cache .*input_ids"):
        generate(session, [1], max_new_tokens=1)


def test_a_cache_of_unknown_size_is_refused() -> None:
    engine = scripted([1])
    first, second, _, value = engine.signature.inputs
    odd = TensorSpec("past_key_values.0.key", "float16", ("batch", "heads", "past", 1))
    engine.signature = Signature((first, second, odd, value), engine.signature.outputs)
    with pytest.raises(UsageError, match="with fixed heads and head_size"):
        list(generate(engine, [1], max_new_tokens=1))


def test_nan_logits_are_an_error_and_not_a_token() -> None:
    with pytest.raises(VerificationError, match="hold NaN"):
        Sampling().choose(np.array([0.0, np.nan]), np.random.default_rng(0))


@given(
    logits=st.lists(st.floats(-50, 50), min_size=1, max_size=30),
    top_k=st.none() | st.integers(1, 40),
    top_p=st.none() | st.floats(0.01, 1),
    temperature=st.floats(0.01, 10),
    seed=st.integers(0, 99),
)
def test_only_allowed_tokens_are_drawn(
    logits: list[float], top_k: int | None, top_p: float | None, temperature: float, seed: int
) -> None:
    values = np.array(logits)
    token = Sampling(temperature, top_k, top_p).choose(values, np.random.default_rng(seed))
    better = (values > values[token]).sum()
    assert top_k is None or better < top_k
    probabilities = np.exp((values - values.max()) / temperature)
    probabilities /= probabilities.sum()
    # all strictly better tokens together did not yet reach top_p
    assert top_p is None or top_k is not None or probabilities[values > values[token]].sum() <= top_p + 1e-9


def test_draws_follow_the_probabilities() -> None:
    random = np.random.default_rng(0)
    logits = np.log([0.5, 0.3, 0.2])
    counts = np.bincount([Sampling(1.0).choose(logits, random) for _ in range(4000)], minlength=3)
    np.testing.assert_allclose(counts / 4000, [0.5, 0.3, 0.2], atol=0.03)


def test_text_comes_in_whole_characters(byte_tokenizer: Path) -> None:
    tokenizer = Tokenizer.load(byte_tokenizer)
    engine = scripted([*"日".encode(), 256, *"é".encode()[:1], 257], vocabulary=258)
    pieces = generate_text(engine, tokenizer, "the", max_new_tokens=9, stop_ids=[257])
    assert list(pieces) == ["日", "th", "\ufffd"]
    assert engine.calls[0]["input_ids"].tolist() == [[256, ord("e")]]
