"""Every way to choose a token against a reference that is slow and plain."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgeai.errors import UsageError, VerificationError
from edgeai.runtime.sampling import Sampling

LOGITS = st.lists(st.integers(-40, 40).map(lambda n: n / 4), min_size=1, max_size=30)  # ties are common


def allowed(logits: list[float], sampling: Sampling, seen: list[int]) -> dict[int, float]:
    """Token -> probability, one token after the other, as the definitions say it."""
    scores = list(logits)
    for token in set(seen):
        by = sampling.repetition_penalty
        scores[token] = scores[token] / by if scores[token] > 0 else scores[token] * by
    order = sorted(range(len(scores)), key=lambda token: (-scores[token], token))
    if sampling.temperature == 0:
        return {order[0]: 1.0}
    order = order[: sampling.top_k]
    weights = [math.exp((scores[token] - scores[order[0]]) / sampling.temperature) for token in order]
    total, kept, sum_so_far = sum(weights), dict[int, float](), 0.0
    for token, weight in zip(order, weights, strict=True):
        if sampling.top_p is not None and sum_so_far >= sampling.top_p:
            break
        kept[token] = weight / total
        sum_so_far += weight / total
    return {token: probability / sum(kept.values()) for token, probability in kept.items()}


class Fixed:
    """In place of a random generator: always the same number."""

    def __init__(self, value: float) -> None:
        self._value = value

    def random(self) -> float:
        return self._value


@given(
    logits=LOGITS,
    temperature=st.just(0.0) | st.floats(0.05, 5),
    top_k=st.none() | st.integers(1, 40),
    top_p=st.none() | st.floats(0.05, 0.99),
    penalty=st.sampled_from([1.0, 1.5, 0.5]),
    drawn=st.floats(0, 0.999),
    data=st.data(),
)
def test_a_token_is_drawn_as_the_reference_draws_it(
    logits: list[float],
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    penalty: float,
    drawn: float,
    data: st.DataObject,
) -> None:
    seen = data.draw(st.lists(st.integers(0, len(logits) - 1), max_size=5))
    limits = (top_k, top_p) if temperature else (None, None)
    sampling = Sampling(temperature, *limits, penalty)
    expected = allowed(logits, sampling, seen)
    token = sampling.choose(np.array(logits, np.float32), seen, Fixed(drawn))  # type: ignore[arg-type]
    if top_p is not None and temperature:  # where rounding decides what is kept, either is right
        sums = np.cumsum(list(allowed(logits, Sampling(temperature, top_k, None, penalty), seen).values()))
        assume(np.abs(sums - top_p).min() > 1e-9)
    assert token in expected
    start = 0.0
    for other, probability in expected.items():
        if other == token:
            assert start - 1e-6 <= drawn <= start + probability + 1e-6
            break
        start += probability


def test_draws_follow_the_probabilities() -> None:
    random = np.random.default_rng(0)
    logits = np.log([0.5, 0.3, 0.2])
    counts = np.bincount([Sampling(1.0).choose(logits, [], random) for _ in range(4000)], minlength=3)
    np.testing.assert_allclose(counts / 4000, [0.5, 0.3, 0.2], atol=0.03)


def test_the_penalty_counts_with_greedy_choice_too() -> None:
    random = np.random.default_rng(0)
    logits = np.array([2.0, 1.5, -1.0], np.float16)
    assert Sampling().choose(logits, [0], random) == 0
    assert Sampling(repetition_penalty=2.0).choose(logits, [0, 0], random) == 1
    assert logits.tolist() == [2.0, 1.5, -1.0], "the model's buffer is not written to"


def test_rows_of_a_batch_draw_their_own_numbers() -> None:
    sampling = Sampling(1.0, seed=3)
    assert sampling.random(0).random() == sampling.random().random() != sampling.random(1).random()


@pytest.mark.parametrize("logits", [[0.0, np.nan], [np.nan, 9.0], [np.inf, 0.0], [-np.inf, -np.inf]])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_no_healthy_model_gives_are_an_error_and_not_a_token(logits: Any, temperature: float) -> None:
    with pytest.raises(VerificationError, match="the model's logits hold"):
        Sampling(temperature).choose(np.array(logits), [], np.random.default_rng(0))


def test_tokens_that_are_ruled_out_are_never_drawn() -> None:
    random = np.random.default_rng(0)
    logits = np.array([-np.inf, 0.0, -np.inf, 0.5])
    assert {Sampling(5.0).choose(logits, [], random) for _ in range(50)} == {1, 3}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"temperature": -1}, "temperature = -1"),
        ({"temperature": float("nan")}, "temperature = nan"),
        ({"temperature": float("inf")}, "temperature = inf"),
        ({"temperature": 1, "top_k": 0}, "top_k = 0"),
        ({"temperature": 1, "top_p": 1.5}, "top_p = 1.5"),
        ({"temperature": 1, "top_p": 0.0}, "top_p = 0.0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty = 0.0"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty = nan"),
        ({"temperature": 1, "seed": -1}, "seed = -1"),
        ({"top_k": 5}, "do nothing at temperature 0"),
    ],
)
def test_options_out_of_range_are_refused(options: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Sampling(**options)
