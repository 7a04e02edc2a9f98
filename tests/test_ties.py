"""Integers out of floats that are nearly equal: what is a tie, and what is a fault."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgeai import modelfile
from edgeai.agreement import Agreement
from edgeai.artifact import Artifact
from edgeai.runtime.loading import load
from edgeai.runtime.testing import Answer, FakeEngine
from edgeai.samples import Samples
from edgeai.spec import Array, Axis, Feed, Signature, TensorSpec
from edgeai.verification import verify

X = TensorSpec("x", "float32", ("batch", 6))
LABEL = TensorSpec("label", "int64", ("batch",))
SIGNATURE = Signature((X,), (LABEL,), (Axis("batch", 1, 64),))
TIED = Samples.from_feeds([{"x": np.array([[0, 3, 1, 3, 2, 0], [5, 0, 1, 2, 5, 5]], np.float32)}])


def first(feed: Feed) -> dict[str, Array]:
    return {"label": feed["x"].argmax(-1)}


def last(feed: Feed) -> dict[str, Array]:
    return {"label": 5 - feed["x"][:, ::-1].argmax(-1)}


def check(lie: Answer, honest: Answer = first, signature: Signature = SIGNATURE) -> Agreement:
    return verify(FakeEngine(signature, honest), FakeEngine(signature, lie), TIED if signature is SIGNATURE else None)


def file(path: Path, node: ir.Node, output: str) -> Path:
    """A graph of one node over x."""
    node.outputs[-1].name = output
    node.outputs[-1].dtype = ir.DataType.INT64
    graph = ir.Graph(node.inputs[:1], [node.outputs[-1]], nodes=[node], opset_imports={"": 20}, name="tie")
    modelfile.save(ir.Model(graph, ir_version=9), Artifact(path))
    return path


def x() -> ir.Value:
    return ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["batch", 6]))


def test_equal_values_between_which_onnx_runtime_chooses_otherwise_are_a_tie(tmp_path: Path) -> None:
    node = ir.node("ArgMax", [x()], {"axis": -1, "keepdims": 0, "select_last_index": 1})
    node.outputs[0].shape = ir.Shape(["batch"])
    with load(file(tmp_path / "m.onnx", node, "label"), ep="cpu") as candidate:
        agreement = verify(FakeEngine(SIGNATURE, first), candidate, TIED, signature=SIGNATURE)
    assert agreement.verdict == "verified"
    (tie,) = agreement.findings
    assert tie.text.startswith("tie: label[0] 1 became 3 at samples, feed 0, where rounding decides in the reference")
    assert tie.text.endswith("elements of output label)")


@pytest.mark.parametrize("largest", [1, 0])
def test_the_order_of_a_top_k_may_differ_where_values_are_equal(largest: int, tmp_path: Path) -> None:
    k = ir.Value(name="k", const_value=ir.tensor(np.array([4]), name="k"))
    node = ir.node("TopK", [x(), k], {"axis": -1, "largest": largest}, num_outputs=2)
    node.outputs[0].name, node.outputs[1].shape = "values", ir.Shape(["batch", 4])
    node.outputs[1].name, node.outputs[1].dtype = "order", ir.DataType.INT64
    graph = ir.Graph([node.inputs[0]], [node.outputs[1]], nodes=[node], initializers=[k], opset_imports={"": 20})
    modelfile.save(ir.Model(graph, ir_version=9), Artifact(tmp_path / "m.onnx"))
    signature = Signature((X,), (TensorSpec("order", "int64", ("batch", 4)),), SIGNATURE.axes)

    def unstable(feed: Feed) -> dict[str, Array]:
        values = -feed["x"] if largest else feed["x"]
        return {"order": 5 - np.argsort(values[:, ::-1], axis=-1, kind="stable")[:, :4]}

    with load(tmp_path / "m.onnx", ep="cpu") as candidate:
        agreement = verify(FakeEngine(signature, unstable), candidate, TIED, signature=signature)
    assert agreement.verdict == "verified" and agreement.findings[0].text.startswith("tie: order[")


def test_values_that_only_rounding_tells_apart_are_a_tie_too() -> None:
    weights = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    twins = np.concatenate([weights, np.nextafter(weights, np.float32(9))], axis=1)

    def logits(feed: Feed, dtype: type) -> dict[str, Array]:
        return {"label": (feed["x"].astype(dtype) @ twins.astype(dtype)).argmax(-1)}

    agreement = check(lambda feed: logits(feed, np.float64), lambda feed: logits(feed, np.float32))
    assert agreement.verdict == "verified", agreement.findings[0].text


def test_an_answer_off_by_one_is_no_tie() -> None:
    agreement = check(lambda feed: {"label": (first(feed)["label"] + 1) % 6})
    assert agreement.verdict == "failed" and "label[" in agreement.findings[0].text


def test_a_fault_beside_a_tie_is_still_a_fault_and_is_the_one_that_is_shown() -> None:
    def both(feed: Feed) -> dict[str, Array]:
        label = last(feed)["label"]
        return {"label": np.where(feed["x"].min(-1) < -1.5, label + 1, label)}

    agreement = check(both)
    assert agreement.verdict == "failed"
    assert [finding.severity for finding in agreement.findings] == ["failed", "note"]
    worst = agreement.outputs[0]
    assert worst.candidate == worst.reference + 1


def test_integers_out_of_integers_have_no_ties() -> None:
    ids = Signature((TensorSpec("x", "int64", ("batch", 6), 0, 3),), (LABEL,), SIGNATURE.axes)
    assert check(last, first, ids).verdict == "failed"


def test_bools_have_no_ties() -> None:
    signature = Signature((X,), (TensorSpec("label", "bool", ("batch",)),), SIGNATURE.axes)
    agreement = check(lambda f: {"label": f["x"].sum(-1) >= 0}, lambda f: {"label": f["x"].sum(-1) > 0}, signature)
    assert agreement.verdict == "failed" and "zeros, lowest ids" in agreement.findings[0].text


def test_where_nearly_all_is_a_tie_nothing_is_proven() -> None:
    def hashed(feed: Feed) -> dict[str, Array]:
        return {"label": (feed["x"].sum(-1).astype(np.float64) * 1e12).astype(np.int64) % 1000}

    agreement = check(lambda feed: hashed({"x": feed["x"] + 1}), hashed)
    assert agreement.verdict == "failed"
    assert agreement.findings[0].text.endswith("elements of output label it cannot be told from a fault")
