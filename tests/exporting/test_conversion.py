"""Third-party ONNX at every accepted opset: taken as it is, or converted with parity proven."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgeai
from edgeai.errors import ExportError, ModelFormatError, UsageError, VerificationError
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


# Operators in the form that they had at that opset and later lost: attributes that became inputs, other axes.
OLD_FORMS = {
    7: """agraph (float[N,3,8,8] x) => (float[N,3,5,5] y) {
        u = Upsample <mode = "nearest", scales = [1.0, 1.0, 2.0, 2.0]> (x)
        s = Slice <axes = [2, 3], starts = [1, 1], ends = [6, 6]> (u)
        y = PRelu (s, slope) }""",
    9: """agraph (float[N,6,8] x) => (float[N,8,2] y, int64[N,8,2] i) {
        t = Transpose <perm = [0, 2, 1]> (x)
        y, i = TopK <axis = 2, k = 2> (t) }""",
    11: """agraph (float[N,3,8] x) => (float[N,3,10] y) {
        p = Pad <mode = "reflect"> (x, pads)
        y = Clip (p, low, high) }""",
    12: """agraph (float[N,3,4] x) => (float[N,3,4] y) {
        d, kept = Dropout (x)
        y = Softmax <axis = 1> (d) }""",
    13: """agraph (float[N,1,6] x) => (float[N] y) {
        s = Squeeze (x, one)
        y = ReduceSum <keepdims = 0> (s, one) }""",
    17: """agraph (float[N,4,6] x) => (float[N,3,6] y) {
        r = ReduceMean <axes = [1], keepdims = 1> (x)
        c = Sub (x, r)
        a, b = Split <axis = 1> (c, parts)
        y = LayerNormalization (a, scale) }""",
    26: """agraph (float[N,4,6] x) => (float[N,4,6] y) {
        n = RMSNormalization (x, scale)
        y = Gelu (n) }""",
}
REFUSED = {26: "cannot be converted to opset 20: No Previous Version of RMSNormalization exists"}
CONSTANTS = {
    "slope": np.full((3, 1, 1), 0.25, np.float32), "pads": np.array([0, 0, 1, 0, 0, 1]), "low": np.float32(-0.5),
    "high": np.float32(0.75), "one": np.array([1]), "parts": np.array([3, 1]),
    "scale": np.ones(6, np.float32),
}  # fmt: skip


def old_form(path: Path, opset: int) -> Path:
    ir_version = 3 if opset < 9 else 8 if opset < 22 else 12
    model = onnx.parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["" : {opset}]> {OLD_FORMS[opset]}')
    used = {name for node in model.graph.node for name in node.input}
    for name, value in CONSTANTS.items():
        if name in used:
            weight = numpy_helper.from_array(np.asarray(value), name)
            model.graph.initializer.append(weight)
            if opset < 9:
                model.graph.input.append(helper.make_tensor_value_info(name, weight.data_type, weight.dims))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("make", [convnet, old_form])
@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_is_accepted_as_it_is(make: Callable[[Path, int], Path], opset: int, tmp_path: Path) -> None:
    source = make(tmp_path / "old.onnx", opset)
    artifact = export(resolve(str(source)), out=tmp_path / "new.onnx")
    assert written_opset(artifact.path) == opset
    assert artifact.lineage[0].tool == "export"
    assert artifact.lineage[0].parent_sha256
    assert artifact.signature is not None and artifact.signature.input_names == ("x",)
    assert edgeai.verify(source, artifact).verdict == "verified"


@pytest.mark.parametrize("opset", OPSETS)
def test_a_network_is_raised_or_lowered_where_asked(opset: int, tmp_path: Path) -> None:
    source = convnet(tmp_path / "old.onnx", opset)
    artifact = export(resolve(str(source)), out=tmp_path / "new.onnx", opset=20)
    assert written_opset(artifact.path) == 20
    assert artifact.lineage[0].options["opset"] == [opset, 20]
    x = np.random.default_rng(3).standard_normal((5, 3, 8, 8)).astype(np.float32)
    with edgeai.load(source) as before, edgeai.load(artifact.path) as after:
        np.testing.assert_allclose(before.run({"x": x})["y"], after.run({"x": x})["y"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", OPSETS)
def test_an_old_form_is_converted_with_parity_or_refused_with_the_reason(opset: int, tmp_path: Path) -> None:
    source = old_form(tmp_path / "old.onnx", opset)
    if opset in REFUSED:
        with pytest.raises(ExportError, match=REFUSED[opset]):
            export(resolve(str(source)), out=tmp_path / "new.onnx", opset=20)
        assert not (tmp_path / "new.onnx").exists()
        return
    artifact = export(resolve(str(source)), out=tmp_path / "new.onnx", opset=20)
    assert written_opset(artifact.path) == 20
    assert edgeai.verify(source, artifact).verdict == "verified"


def test_a_custom_domain_that_onnx_runtime_does_not_know_is_named(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "com.acme" : 1]>
    agraph (float[N,4] x) => (float[N,4] y) { y = com.acme.Sparkle (x) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    with pytest.raises(ExportError, match=r"m.onnx at opset 17 is not written: .*com.acme[.:]Sparkle"):
        export(resolve(str(tmp_path / "m.onnx")), out=tmp_path / "n.onnx")
    assert not (tmp_path / "n.onnx").exists()


def test_functions_of_a_model_are_kept_and_run(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
    agraph (float[N,4] x) => (float[N,4] y) { y = own.thrice (x) }
    <domain: "own", opset_import: ["" : 17]>
    thrice (a) => (b) { twice = Add (a, a)
      b = Add (a, twice) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    artifact = export(resolve(str(tmp_path / "m.onnx")), out=tmp_path / "n.onnx")
    assert [function.name for function in onnx.load(artifact.path).functions] == ["thrice"]
    with edgeai.load(artifact.path) as session:
        np.testing.assert_array_equal(session.run({"x": np.ones((2, 4), np.float32)})["y"], np.full((2, 4), 3))


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
    with pytest.raises(UsageError, match=r"opset 6 cannot be written .*\(7 to 26 can be written\)"):
        export(resolve(str(source)), out=tmp_path / "new.onnx", opset=6)
    with pytest.raises(UsageError, match="opset 27 cannot be written"):
        export(resolve(str(source)), out=tmp_path / "new.onnx", opset=27)
    ancient = convnet(tmp_path / "ancient.onnx", 7)
    model = onnx.load(ancient)
    model.opset_import[0].version = 6
    onnx.save(model, ancient)
    with pytest.raises((ExportError, ModelFormatError), match=r"ancient\.onnx"):
        export(resolve(str(ancient)), out=tmp_path / "new.onnx")
    assert not (tmp_path / "new.onnx").exists()
