import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeai.errors import IntegrityError, MissingDependencyError, ModelFormatError
from edgeai.inspection import inspect

Paths = Callable[[str], Path]


def test_a_model_tells_its_operators_and_weights(exported: Paths) -> None:
    found = inspect(exported("mlp"))
    assert found.kind == "model"
    assert found.size_bytes == exported("mlp").stat().st_size
    assert found.operators["Gemm"] == 2
    assert found.opsets["ai.onnx"] == 20
    assert found.weight_bytes["float"] > 2000
    assert [step.tool for step in found.lineage] == ["export"]


def test_a_bundle_tells_its_manifest(built: Paths) -> None:
    found = inspect(built("mlp"))
    assert found.kind == "bundle"
    assert "model.onnx" in found.manifest["files"]
    assert found.signature is not None
    assert found.signature.input_names == ("x",)


def test_what_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.onnx").write_text("text")
    with pytest.raises(ModelFormatError, match=r"x\.onnx"):
        inspect(tmp_path / "x.onnx")
    (tmp_path / "text").write_text("text")
    with pytest.raises(IntegrityError, match="text: not a bundle"):
        inspect(tmp_path / "text")
    with pytest.raises(IntegrityError, match="no such bundle"):
        inspect(tmp_path / "nothing")
    monkeypatch.setitem(sys.modules, "edgeai.modelfile", None)
    with pytest.raises(MissingDependencyError, match="edgeai\\[build\\]"):
        inspect(tmp_path / "x.onnx")
