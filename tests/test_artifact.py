from pathlib import Path

import pytest

from edgeai.artifact import LINEAGE_KEY, Artifact, Step
from edgeai.errors import ModelFormatError
from edgeai.spec import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "float32", ("batch", 2)),), ())


def test_the_stamp_tells_the_whole_story_again() -> None:
    first = Artifact(Path("a.onnx"), (Step("export", {"opset": 20}, {"torch": "2.13"}),), SIGNATURE)
    second = first.after(Step("quantize", {"recipe": "int8"}, {}, "abc"), "b.onnx")
    assert Artifact.from_metadata("b.onnx", second.metadata()) == second
    assert [step.tool for step in second.lineage] == ["export", "quantize"]
    assert second.signature == SIGNATURE


def test_a_foreign_model_has_no_story() -> None:
    assert Artifact.from_metadata("x.onnx", {"author": "someone"}) == Artifact(Path("x.onnx"))


@pytest.mark.parametrize("stamp", ["", "{", "[1]", '[{"no_such_field": 1}]', '"text"'])
def test_a_broken_stamp_is_refused(stamp: str) -> None:
    with pytest.raises(ModelFormatError, match=r"x\.onnx: the edgeai stamp in its metadata is unreadable"):
        Artifact.from_metadata("x.onnx", {LINEAGE_KEY: stamp})
