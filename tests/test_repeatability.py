"""Engines that answer one feed in two ways, or do not leave it alone."""

from collections.abc import Callable

import numpy as np
import pytest

from edgeai.agreement import Agreement
from edgeai.errors import InputError
from edgeai.runtime.testing import FakeEngine
from edgeai.spec import Array, Axis, Feed, Signature, TensorSpec
from edgeai.verification import verify

WEIGHTS = np.random.default_rng(7).standard_normal((8, 4)).astype(np.float32)
X = TensorSpec("x", "float32", ("batch", 8))
LOGITS = TensorSpec("logits", "float32", ("batch", 4))
DENSE = Signature((X,), (LOGITS,), (Axis("batch", 1, 32),))

Answer = Callable[[Feed], dict[str, Array]]


def dense(feed: Feed) -> dict[str, Array]:
    return {"logits": feed["x"] @ WEIGHTS}


def check(lie: Answer, honest: Answer = dense, signature: Signature = DENSE) -> Agreement:
    return verify(FakeEngine(signature, honest), FakeEngine(signature, lie))


def reason(agreement: Agreement) -> str:
    return agreement.findings[0].text


def test_a_random_reference_is_told_from_a_random_candidate() -> None:
    generator = np.random.default_rng(0)

    def noisy(feed: Feed) -> dict[str, Array]:
        logits = dense(feed)["logits"]
        return {"logits": logits + 3e-6 * generator.standard_normal(logits.shape).astype(np.float32)}

    assert "logits of the candidate changes from run to run on the same feed: it is random" in reason(check(noisy))
    assert "logits of the reference changes from run to run" in reason(check(dense, noisy))


def test_the_last_bits_may_differ_from_run_to_run_as_threads_add_in_another_order() -> None:
    calls = iter(range(1000))

    def threaded(feed: Feed) -> dict[str, Array]:
        logits = dense(feed)["logits"]
        return {"logits": np.nextafter(logits, np.float32(9)) if next(calls) % 2 else logits}

    assert check(threaded).verdict == "verified"


def test_a_state_that_outlives_a_run_shows_when_the_first_feed_comes_again() -> None:
    seen: list[float] = []

    def counting(feed: Feed) -> dict[str, Array]:
        seen.append(1e-6)
        return {"logits": dense(feed)["logits"] + np.float32(sum(seen))}

    assert "or keeps something from earlier runs" in reason(check(counting))


def test_an_engine_that_refuses_what_it_took_before_has_failed() -> None:
    calls = iter(range(1000))

    def moody(feed: Feed) -> dict[str, Array]:
        if next(calls) >= 10:
            raise InputError("not now")
        return dense(feed)

    agreement = check(moody)
    assert (agreement.verdict, agreement.feeds) == ("failed", 10)
    assert reason(agreement) == "the candidate refuses a feed that it took before: not now"


@pytest.mark.parametrize("who", ["reference", "candidate"])
def test_an_engine_that_writes_into_its_callers_arrays_is_found_and_fools_nobody(who: str) -> None:
    def in_place(feed: Feed) -> dict[str, Array]:
        answer = dense(feed)
        feed["x"][...] = 0  # what comes next would see zeros on both sides
        return answer

    sides = {"reference": dense, "candidate": dense} | {who: in_place}
    agreement = check(sides["candidate"], sides["reference"])
    assert agreement.verdict == "failed"
    assert reason(agreement) == f"the {who} writes into input x, which is its caller's"
    assert agreement.error == 0.0


def test_answers_that_share_one_buffer_are_not_compared_with_themselves() -> None:
    buffer = np.zeros((32, 4), np.float32)

    def reused(scale: float) -> Answer:
        def answer(feed: Feed) -> dict[str, Array]:
            np.multiply(dense(feed)["logits"], np.float32(scale), out=buffer[: len(feed["x"])])
            return {"logits": buffer[: len(feed["x"])]}

        return answer

    assert check(reused(1.0), reused(1.0)).verdict == "verified"
    assert "became" in reason(check(reused(1.1), reused(1.0)))
