"""Over which sizes a file is proven: nothing, one alone, multiples."""

from collections.abc import Callable

import numpy as np

from edgeai.agreement import Agreement
from edgeai.errors import InputError
from edgeai.runtime.testing import FakeEngine
from edgeai.samples import Samples
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


def test_an_axis_that_the_candidate_fixes_openly_is_noted() -> None:
    fixed = Signature((TensorSpec("x", "float32", (2, 8)),), (TensorSpec("logits", "float32", (2, 4)),))
    agreement = verify(FakeEngine(DENSE, dense), FakeEngine(fixed, dense))
    assert agreement.verdict == "verified"
    assert "axis 0 of input x is batch in the reference and fixed to 2 in the candidate" in reason(agreement)


EMPTY = Signature((X,), (LOGITS,), (Axis("batch", 0, 8),))


def test_a_size_of_nothing_is_proven_where_it_is_declared() -> None:
    assert check(dense, dense, EMPTY).proven() == {"batch": (0, 8)}
    assert check(dense).proven()["batch"][0] == 1


def test_a_candidate_that_fails_at_nothing_is_named_with_the_size() -> None:
    def refusing(feed: Feed) -> dict[str, Array]:
        if not len(feed["x"]):
            raise InputError("cannot divide by zero")
        return dense(feed)

    def narrower(feed: Feed) -> dict[str, Array]:
        return {"logits": dense(feed)["logits"][:, : 4 if len(feed["x"]) else 3]}

    agreement = check(refusing, dense, EMPTY)
    assert agreement.verdict == "failed"
    assert reason(agreement) == "the candidate refuses batch=0, normal values: cannot divide by zero"
    assert "logits has shape (0, 3) at batch=0" in reason(check(narrower, dense, EMPTY))
    assert "not proven at batch=0" in reason(check(dense, refusing, EMPTY))


def test_an_output_that_is_always_empty_proves_nothing() -> None:
    def nothing(feed: Feed) -> dict[str, Array]:
        return {"logits": feed["x"][:, :0]}

    agreement = check(nothing, nothing)
    assert agreement.verdict == "unverified"
    assert reason(agreement) == "vacuous: no value of output logits was compared: it is empty for every feed"


def test_what_the_reference_refuses_is_noted_as_not_proven() -> None:
    def picky(feed: Feed) -> dict[str, Array]:
        if len(feed["x"]) == 1:
            raise InputError("needs two rows")
        return dense(feed)

    agreement = check(dense, picky)
    assert agreement.verdict == "verified" and agreement.proven() == {"batch": (2, 32)}
    assert "not proven at batch=1" in reason(agreement)


def test_an_axis_that_the_reference_takes_at_one_size_alone_is_not_called_proven() -> None:
    def fixed(feed: Feed) -> dict[str, Array]:
        if len(feed["x"]) != 2:
            raise InputError("two rows or nothing")
        return dense(feed)

    agreement = check(dense, fixed)
    assert agreement.verdict == "unverified"
    assert reason(agreement) == "axis batch is proven at 2 alone: the reference refuses other sizes"


def test_sizes_that_look_like_multiples_are_suggested_as_such() -> None:
    def windowed(feed: Feed) -> dict[str, Array]:
        if len(feed["x"]) % 8:
            raise InputError("windows of 8")
        return dense(feed)

    samples = Samples.from_feeds([{"x": np.ones((24, 8), np.float32)}])
    hint = "; if it takes multiples of 8 alone, declare that, as x:0=batch:8..32/8"
    agreement = verify(FakeEngine(DENSE, windowed), FakeEngine(DENSE, dense), samples)
    assert reason(agreement) == f"the reference refuses sizes of axis batch{hint}"
    declared = Signature((X,), (LOGITS,), (Axis("batch", 1, 32, 8),))
    assert check(dense, windowed, declared).proven() == {"batch": (8, 32)}
    assert check(dense, windowed, declared).findings == ()


def test_a_reference_that_takes_one_multiple_alone_is_told_how_to_declare_them() -> None:
    wide = Signature((X,), (LOGITS,), (Axis("batch", 1, 24),))

    def windowed(feed: Feed) -> dict[str, Array]:
        if len(feed["x"]) % 8:
            raise InputError("windows of 8")
        return dense(feed)

    agreement = verify(FakeEngine(wide, windowed), FakeEngine(wide, dense))
    assert agreement.verdict == "unverified"
    assert reason(agreement) == (
        "axis batch is proven at 24 alone: the reference refuses other sizes; "
        "if it takes multiples of 8 alone, declare that, as x:0=batch:8..24/8"
    )
