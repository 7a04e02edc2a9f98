"""Third-party ONNX at every accepted opset: taken as it is, or converted with parity proven."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgeai
from edgeai.errors import ExportError, ModelFormatError, VerificationError
from edgeai.exporting import conversion, export, resolve

OPSETS = (7, 9, 11, 12, 13, 17, 26)


def array(name: str, *shape: int) -> TensorProto:
    values = np.random.default_rng(len(name)).standard_normal(shape) * 0.3
    return numpy_helper.from_array(values.astype(np.float32), name)


def convnet(path: Path, opset: int) -> Path:
    """Conv, BatchNorm, Relu, pooling, Gemm, as exporters of the day wrote them."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "bias", "mean", "variance"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "g", "h"], ["y"], transB=1),
    ]
    weights = [array("w", 8, 3, 3, 3), array("scale", 8), array("bias", 8), array("mean", 8)]
    weights += [numpy_helper.from_array(np.ones(8, np.float32), "variance"), array("g", 4, 8), array("h", 4)]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])]
    if opset < 9:  # IR version 3 lists initializers among the inputs
        inputs += [helper.make_tensor_value_info(w.name, TensorProto.FLOAT, w.dims) for w in weights]
    graph = helper.make_graph(
        nodes, "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])], weights
    )
    ir_version = 3 if opset < 9 else 8 if opset < 22 else 11
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version), path)
    return path


def written_opset(path: Path) -> int:
    return next(entry.version for entry in onnx.load(path).opset_import if not entry.domain)


@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_is_accepted_as_it_is(opset: int, tmp_path: Path) -> None:
    source = convnet(tmp_path / "old.onnx", opset)
    artifact = export(resolve(str(source)), out=tmp_path / "new.onnx")
    assert written_opset(artifact.path) == opset
    assert artifact.lineage[0].tool == "export"
    assert artifact.lineage[0].parent_sha256
    assert edgeai.verify(source, artifact).verdict == "verified"


@pytest.mark.parametrize("opset", [7, 9, 11, 12, 13, 17])
def test_an_older_opset_is_raised_where_asked(opset: int, tmp_path: Path) -> None:
    source = convnet(tmp_path / "old.onnx", opset)
    artifact = export(resolve(str(source)), out=tmp_path / "new.onnx", opset=20)
    assert written_opset(artifact.path) == 20
    assert artifact.lineage[0].options["opset"] == [opset, 20]
    x = np.random.default_rng(3).standard_normal((5, 3, 8, 8)).astype(np.float32)
    with edgeai.load(source) as before, edgeai.load(artifact.path) as after:
        np.testing.assert_allclose(before.run({"x": x})["y"], after.run({"x": x})["y"], rtol=1e-4, atol=1e-5)


def test_what_the_converter_gets_wrong_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = conversion.version_converter.convert_version

    def wrong(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
        converted = real(proto, opset)
        weight = next(tensor for tensor in converted.graph.initializer if tensor.name == "g")
        weight.CopyFrom(array("another", 4, 8))
        weight.name = "g"
        return converted

    monkeypatch.setattr(conversion.version_converter, "convert_version", wrong)
    source = convnet(tmp_path / "old.onnx", 11)
    with pytest.raises(VerificationError, match=r"new\.onnx is not written: .*at opset 20: failed verification: y\["):
        export(resolve(str(source)), out=tmp_path / "new.onnx", opset=20)
    assert not (tmp_path / "new.onnx").exists()


def test_what_cannot_be_converted_is_said(tmp_path: Path) -> None:
    source = convnet(tmp_path / "old.onnx", 13)
    with pytest.raises(ExportError, match=r"cannot be written at opset 6 \(7 to 26 are accepted\)"):
        export(resolve(str(source)), out=tmp_path / "new.onnx", opset=6)
    with pytest.raises(ExportError, match="cannot be written at opset 27"):
        export(resolve(str(source)), out=tmp_path / "new.onnx", opset=27)
    ancient = convnet(tmp_path / "ancient.onnx", 7)
    model = onnx.load(ancient)
    model.opset_import[0].version = 6
    onnx.save(model, ancient)
    with pytest.raises((ExportError, ModelFormatError), match=r"ancient\.onnx"):
        export(resolve(str(ancient)), out=tmp_path / "new.onnx")
    assert not (tmp_path / "new.onnx").exists()
