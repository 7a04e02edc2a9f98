"""Numpy functions stand for the two models: each lie is one line, and the verdict must say it in words."""

from collections.abc import Callable

import numpy as np
import pytest

from edgeai.agreement import Agreement
from edgeai.errors import DataError, InputError
from edgeai.metrics import METRICS
from edgeai.samples import Samples
from edgeai.spec import Array, Axis, Feed, Signature, TensorSpec
from edgeai.verification import EXACT, QUANTIZED, Tolerance, sample_batch, verify

WEIGHTS = np.random.default_rng(7).standard_normal((8, 4)).astype(np.float32)
X = TensorSpec("x", "float32", ("batch", 8))
LOGITS = TensorSpec("logits", "float32", ("batch", 4))
DENSE = Signature((X,), (LOGITS,), (Axis("batch", 1, 32),))
IDS = TensorSpec("ids", "int64", ("batch", "seq"), 0, 50)
MASK = TensorSpec("mask", "int64", ("batch", "seq"), 0, 2)
POOLED = TensorSpec("pooled", "float32", ("batch", 8))
TEXT = Signature((IDS, MASK), (POOLED,), (Axis("batch", 1, 8), Axis("seq", 1, 32)))
TABLE = np.random.default_rng(8).standard_normal((50, 8)).astype(np.float32)

Answer = Callable[[Feed], dict[str, Array]]


class Model:
    def __init__(self, signature: Signature, answer: Answer) -> None:
        self.signature, self.answer, self.calls = signature, answer, 0

    def run(self, feed: Feed) -> dict[str, Array]:
        self.signature.check(feed)
        self.calls += 1
        return self.answer(feed)

    def close(self) -> None:
        pass


def dense(feed: Feed) -> dict[str, Array]:
    return {"logits": feed["x"] @ WEIGHTS}


def pooled(feed: Feed) -> dict[str, Array]:
    mask = feed["mask"][..., None].astype(np.float32)
    positions = np.arange(feed["ids"].shape[1], dtype=np.float32)[:, None] / 8
    return {"pooled": ((TABLE[feed["ids"]] + positions) * mask).sum(1) / mask.sum(1)}


def check(lie: Answer, honest: Answer = dense, signature: Signature = DENSE) -> Agreement:
    return verify(Model(signature, honest), Model(signature, lie))


def reason(agreement: Agreement) -> str:
    return agreement.findings[0].text


def test_equal_models_are_verified_over_the_whole_range() -> None:
    agreement = check(dense)
    assert (agreement.verdict, agreement.error) == ("verified", 0.0)
    assert agreement.proven() == {"batch": (1, 32)}
    assert [output.name for output in agreement.outputs] == ["logits"]
    assert check(pooled, pooled, TEXT).proven() == {"batch": (1, 8), "seq": (1, 32)}


def test_rounding_is_not_an_error() -> None:
    agreement = check(lambda feed: {"logits": (feed["x"].astype(np.float64) @ WEIGHTS).astype(np.float32)})
    assert agreement.verdict == "verified" and 0 < agreement.error < EXACT.verified


def test_a_refused_shape_names_the_size() -> None:
    def refusing(feed: Feed) -> dict[str, Array]:
        if len(feed["x"]) == 17:
            raise InputError("cannot reshape")
        return dense(feed)

    agreement = check(refusing)
    assert agreement.verdict == "failed"
    assert "the candidate refuses batch=17" in reason(agreement) and "cannot reshape" in reason(agreement)


def several(*names: str) -> Signature:
    outputs = tuple(TensorSpec(name, "float32", ("batch", 4)) for name in names)
    return Signature((X,), outputs, DENSE.axes)


def test_outputs_in_another_order_are_an_interface_of_their_own() -> None:
    def two(feed: Feed) -> dict[str, Array]:
        return {**dense(feed), "other": feed["x"][:, :4]}

    agreement = verify(Model(several("logits", "other"), two), Model(several("other", "logits"), two))
    assert "outputs are other, logits; the reference has logits, other" in reason(agreement)


def test_an_output_that_is_another_one_of_the_references_is_said_to_be() -> None:
    def three(feed: Feed) -> dict[str, Array]:
        x = feed["x"]
        return {"a": x[:, :4], "b": x[:, 2:6], "c": x[:, 4:]}

    def turned(feed: Feed) -> dict[str, Array]:
        a, b, c = three(feed).values()
        return {"a": b, "b": c, "c": a}

    agreement = check(turned, three, several("a", "b", "c"))
    assert reason(agreement).startswith("output a: it is the reference's output b: a[")
    assert len([finding for finding in agreement.findings if "it is the reference's output" in finding.text]) == 3


def test_an_input_that_reaches_one_output_too_few_is_named_with_it() -> None:
    signature = Signature((X, TensorSpec("bias", "float32", ("batch", 4))), several("a", "b").outputs, DENSE.axes)

    def both(feed: Feed) -> dict[str, Array]:
        return {"a": feed["x"][:, :4] + feed["bias"], "b": feed["x"][:, 4:] * feed["bias"]}

    def half(feed: Feed) -> dict[str, Array]:
        return {"a": feed["x"][:, :4], "b": both(feed)["b"]}

    text = "input bias is ignored by output a of the candidate: changed alone, it moves output a of the reference"
    assert reason(check(half, both, signature)).startswith(text)


def test_a_reference_that_ignores_an_input_too_or_mixes_rows_too_is_no_reason() -> None:
    def centred(feed: Feed) -> dict[str, Array]:
        mask = np.ones_like(feed["mask"])
        answer = pooled({**feed, "mask": mask})["pooled"]
        return {"pooled": answer - answer.mean(0, keepdims=True)}

    assert check(centred, centred, TEXT).verdict == "verified"


def test_a_changed_dtype_is_seen_in_the_signature_and_in_the_values() -> None:
    half = Signature((X,), (TensorSpec("logits", "float16", ("batch", 4)),), DENSE.axes)
    agreement = verify(Model(DENSE, dense), Model(half, dense))
    assert "output logits is float16; the reference has float32: changed dtype" in reason(agreement)
    agreement = check(lambda feed: {"logits": dense(feed)["logits"].astype(np.float64)})
    assert agreement.verdict == "failed" and "is float64, the reference gives float32" in reason(agreement)


def test_float64_end_to_end_is_held_to_float64() -> None:
    double = Signature(
        (TensorSpec("x", "float64", ("batch", 8)),), (TensorSpec("logits", "float64", ("batch", 4)),), DENSE.axes
    )
    narrowed = check(
        lambda feed: {"logits": dense({"x": feed["x"].astype(np.float32)})["logits"].astype(np.float64)}, dense, double
    )
    assert narrowed.verdict in ("degraded", "failed") and narrowed.error < EXACT.verified


def test_a_dead_network_is_vacuous() -> None:
    dead = check(lambda feed: dense({"x": feed["x"] * 0}), lambda feed: dense({"x": feed["x"] * 0}))
    assert dead.verdict == "unverified" and "the network is dead" in reason(dead)


def test_one_constant_output_among_others_is_only_noted() -> None:
    signature = Signature((X,), (LOGITS, TensorSpec("version", "float32", (1,))), DENSE.axes)

    def versioned(feed: Feed) -> dict[str, Array]:
        return {**dense(feed), "version": np.ones(1, np.float32)}

    agreement = check(versioned, versioned, signature)
    assert agreement.verdict == "verified" and "do not depend on the input's values: version" in reason(agreement)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_or_inf_on_one_side_only(bad: float) -> None:
    def spoiled(feed: Feed) -> dict[str, Array]:
        logits = dense(feed)["logits"]
        logits[0, 3] = bad
        return {"logits": logits}

    agreement = check(spoiled)
    assert agreement.verdict == "failed"
    assert "output logits[0, 3] is" in reason(agreement) and "NaN or Inf on one side only" in reason(agreement)
    assert check(spoiled, spoiled).verdict == "verified"


def test_a_missing_rank_is_said() -> None:
    agreement = check(lambda feed: {"logits": dense(feed)["logits"][:, 0]})
    assert "the rank differs" in reason(agreement)


def test_a_small_error_degrades_and_a_large_one_fails() -> None:
    def off(by: float) -> Agreement:
        return check(lambda feed: {"logits": dense(feed)["logits"] * np.float32(1 + by)})

    assert [off(by).verdict for by in (1e-5, 5e-4, 1e-2)] == ["verified", "degraded", "failed"]
    assert "beyond 0.0002" in reason(off(5e-4)) and "beyond 0.001" in reason(off(1e-2))


def test_nothing_compared_is_unverified() -> None:
    def never(feed: Feed) -> dict[str, Array]:
        raise InputError("no")

    agreement = check(dense, never)
    assert (agreement.verdict, agreement.exit_code) == ("unverified", 4)
    assert "nothing was compared" in reason(agreement)


def labelled(count: int = 200) -> Samples:
    x = np.random.default_rng(1).standard_normal((count, 8)).astype(np.float32)
    return Samples.from_rows({"x": x}, (x @ WEIGHTS).argmax(-1))


def noisy(size: float) -> Answer:
    def answer(feed: Feed) -> dict[str, Array]:
        logits = dense(feed)["logits"]
        return {"logits": logits + size * np.sin(1000 * logits)}

    return answer


def test_labels_make_the_metric_the_judge_of_a_lossy_stage() -> None:
    def judged(size: float) -> Agreement:
        candidate = Model(DENSE, noisy(size))
        return verify(Model(DENSE, dense), candidate, labelled(), tolerance=QUANTIZED, metric=METRICS["accuracy"])

    fine, coarse = judged(1e-3), judged(3.0)
    assert fine.verdict == "verified" and fine.metric is not None and fine.metric.reference == 1.0
    assert fine.metric.samples == 200
    assert coarse.verdict == "degraded" and "a drop of" in reason(coarse) and "beyond 0.50%" in reason(coarse)
    assert coarse.metric is not None and coarse.metric.low <= coarse.metric.drop <= coarse.metric.high
    assert coarse.metric.low < coarse.metric.high


def test_without_labels_the_distance_on_the_samples_judges_a_lossy_stage() -> None:
    samples = Samples.from_rows(labelled().rows)

    def judged(size: float) -> Agreement:
        return verify(Model(DENSE, dense), Model(DENSE, noisy(size)), samples, tolerance=QUANTIZED)

    assert [judged(size).verdict for size in (1e-2, 0.5, 3.0)] == ["verified", "degraded", "failed"]
    assert "distance" in reason(judged(3.0))


def test_generated_values_do_not_judge_the_accuracy_of_a_lossy_stage_that_has_samples() -> None:
    def saturating(feed: Feed) -> dict[str, Array]:
        return dense({"x": feed["x"].clip(-5, 5)})  # calibrated for real inputs: large ones saturate

    samples = Samples.from_rows(labelled().rows)
    assert verify(Model(DENSE, dense), Model(DENSE, saturating), samples, tolerance=QUANTIZED).verdict == "verified"
    assert verify(Model(DENSE, dense), Model(DENSE, saturating), samples, tolerance=EXACT).verdict == "failed"


def test_a_fixed_batch_leaves_the_last_partial_batch_out() -> None:
    fixed = Signature((TensorSpec("x", "float32", (16, 8)),), (TensorSpec("logits", "float32", (16, 4)),))
    agreement = verify(
        Model(fixed, dense), Model(fixed, dense), labelled(40), tolerance=QUANTIZED, metric=METRICS["accuracy"]
    )
    assert agreement.metric is not None and agreement.metric.samples == 32
    assert sample_batch(fixed) == 16
    with pytest.raises(DataError, match="3 samples do not fill one batch of 16"):
        verify(Model(fixed, dense), Model(fixed, dense), labelled(3), metric=METRICS["accuracy"])


def test_ragged_feeds_are_scored_one_by_one() -> None:
    rows = labelled(20)
    assert rows.labels is not None
    feeds = Samples.from_feeds([{"x": row[None]} for row in rows.rows["x"]], rows.labels)
    agreement = verify(Model(DENSE, dense), Model(DENSE, dense), feeds, metric=METRICS["accuracy"])
    assert agreement.metric is not None and (agreement.metric.samples, agreement.metric.drop) == (20, 0.0)


def test_an_output_that_is_not_there_cannot_be_scored() -> None:
    with pytest.raises(DataError, match="no output scores \\(there are logits\\)"):
        verify(Model(DENSE, dense), Model(DENSE, dense), labelled(), metric=METRICS["accuracy"], output="scores")


def test_shapes_and_probes_bound_the_work() -> None:
    one_shape = verify(Model(DENSE, dense), Model(DENSE, dense), shapes=False)
    assert one_shape.proven() == {"batch": (2, 2)}
    candidate = Model(DENSE, dense)
    assert verify(Model(DENSE, dense), candidate, probes=2).feeds == 2
    assert candidate.calls == 4  # both feeds twice: is it random?


def test_one_integer_in_many_thousands_fails_an_exact_stage() -> None:
    signature = Signature((TensorSpec("n", "int64", (200, 100), 0, 9),), (TensorSpec("m", "int64", (200, 100)),))

    def wrong(feed: Feed) -> dict[str, Array]:
        m = feed["n"].copy()
        m[199, 99] += 1
        return {"m": m}

    agreement = check(wrong, lambda feed: {"m": feed["n"]}, signature)
    assert agreement.verdict == "failed" and agreement.error < EXACT.verified and "m[199, 99]" in reason(agreement)


def test_integers_that_differ_a_little_fail_an_exact_stage() -> None:
    signature = Signature((X,), (TensorSpec("label", "int64", ("batch",)),), DENSE.axes)

    def label(feed: Feed) -> dict[str, Array]:
        return {"label": dense(feed)["logits"].argmax(-1)}

    def wrong(feed: Feed) -> dict[str, Array]:
        answer = label(feed)["label"]
        answer[-1] = (answer[-1] + 1) % 4
        return {"label": answer}

    assert check(label, label, signature).verdict == "verified"
    assert check(wrong, label, signature).verdict == "failed"


def test_a_tolerance_is_a_value() -> None:
    loose = Tolerance(verified=0.5, degraded=0.9)
    assert verify(
        Model(DENSE, dense), Model(DENSE, lambda feed: {"logits": dense(feed)["logits"] * 1.3}), tolerance=loose
    ).verdict in ("verified", "degraded")
