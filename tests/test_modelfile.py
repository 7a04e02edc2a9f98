"""Reading and writing ONNX: what is refused, what is stamped, and that large weights go beside the graph."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnxruntime.quantization import quantize_dynamic

from edgeai import modelfile, ort
from edgeai.artifact import Artifact
from edgeai.errors import ExistsError, MissingDependencyError, ModelFormatError, UnsafePathError
from edgeai.spec import Axis, Signature, TensorSpec

TEXT = """<ir_version: 8, opset_import: ["" : 20]>
g (float[batch,64] x) => (float[batch,32] y) { y = MatMul(x, w) }"""


def model(seed: int = 0) -> ir.Model:
    proto = onnx.parser.parse_model(TEXT)
    weight = np.random.default_rng(seed).standard_normal((64, 32)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return ir.from_proto(proto)


def artifact(path: Path) -> Artifact:
    made = model()
    signature = modelfile.signature_of(made, (Axis("batch", 1, 8),))
    return Artifact(path, (modelfile.step("test", {"why": "because"}),), signature)


def answer(path: Path) -> np.ndarray:
    session = ort.onnxruntime().InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": np.ones((2, 64), np.float32)})[0])


def test_what_is_written_tells_its_story(tmp_path: Path) -> None:
    modelfile.save(model(), artifact(tmp_path / "m.onnx"))
    found = modelfile.open_artifact(tmp_path / "m.onnx")
    assert found == artifact(tmp_path / "m.onnx")
    assert found.lineage[0].versions["onnx"]
    second = found.after(modelfile.step("again", {}, found), tmp_path / "n.onnx")
    assert len(second.lineage[1].parent_sha256) == 64


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        modelfile.save(model(), artifact(tmp_path / f"{name}.onnx"))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_large_weights_go_to_one_file_named_by_its_content(tmp_path: Path) -> None:
    modelfile.save(model(), artifact(tmp_path / "m.onnx"), external_above_bytes=1000)
    names = sorted(os.listdir(tmp_path))
    assert names[1] == "m.onnx"
    assert names[0].startswith("m-")
    assert names[0].endswith(".data")
    assert (tmp_path / "m.onnx").stat().st_size < 4000
    weight = model().graph.initializers["w"].const_value
    assert weight is not None
    np.testing.assert_allclose(answer(tmp_path / "m.onnx"), np.ones((2, 64)) @ weight.numpy(), rtol=1e-4)
    before = answer(tmp_path / "m.onnx")
    modelfile.save(model(1), artifact(tmp_path / "m.onnx"), external_above_bytes=1000, overwrite=True)
    assert np.abs(answer(tmp_path / "m.onnx") - before).max() > 0.1


@pytest.mark.parametrize("limit", [None, 1000])
def test_of_weights_nothing_is_stated_beside_their_tensors(tmp_path: Path, limit: int | None) -> None:
    made = model()
    weight = made.graph.initializers["w"]
    weight.metadata_props["note"], weight.doc_string = "of an exporter", "a weight"
    modelfile.save(made, artifact(tmp_path / "m.onnx"), external_above_bytes=limit)
    proto = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    assert not {info.name for info in proto.graph.value_info}
    assert modelfile.load(tmp_path / "m.onnx").graph.initializers["w"].shape == (64, 32)
    # what was written is not changed by it
    assert (weight.shape, weight.dtype, weight.doc_string) == ((64, 32), ir.DataType.FLOAT, "a weight")
    assert weight.metadata_props == {"note": "of an exporter"}


def test_a_weight_that_is_an_input_or_an_output_stays_declared(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 20]>
        g (float[2] x, float[2] w) => (float[2] y, float[2] v) <float[2] v = {3, 4}> { y = Mul(x, w) }""")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(2, np.float32), "w"))
    modelfile.save(ir.from_proto(proto), Artifact(tmp_path / "m.onnx"))
    written = onnx.load(tmp_path / "m.onnx").graph
    assert all(value.type.tensor_type.elem_type for value in (*written.input, *written.output))


def test_an_exporters_file_can_be_quantized_by_onnx_runtime_itself(tmp_path: Path) -> None:
    """It transposes the weight of such a Gemm, and then infers shapes strictly."""
    proto = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]>
        g (float[n,64] x) => (float[n,32] y) <float[32,64] w> { y = Gemm<transB = 1>(x, w) }""")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((32, 64), np.float32), "w"))
    proto.graph.value_info[0].metadata_props.add(key="note", value="of an exporter")
    modelfile.save(ir.from_proto(proto), Artifact(tmp_path / "m.onnx"))
    onnx.checker.check_model(tmp_path / "m.onnx")
    quantize_dynamic(tmp_path / "m.onnx", tmp_path / "q.onnx")
    assert answer(tmp_path / "q.onnx").shape == (2, 32)


@pytest.mark.parametrize("external_above_bytes", [None, 1000])
def test_a_draft_gets_its_lineage_once_it_is_proven_and_its_name_last(
    external_above_bytes: int | None, tmp_path: Path
) -> None:
    done = artifact(tmp_path / "m.onnx")
    waiting = dataclasses.replace(done, lineage=())
    with modelfile.draft(model(), waiting, external_above_bytes=external_above_bytes) as draft:
        assert not (tmp_path / "m.onnx").exists()
        assert modelfile.open_artifact(draft.path) == draft
        assert answer(draft.path).shape == (2, 32)
        modelfile.stamp(draft.path, done)
    assert modelfile.open_artifact(tmp_path / "m.onnx") == done
    keys = [entry.key for entry in onnx.load(tmp_path / "m.onnx", load_external_data=False).metadata_props]
    assert sorted(keys) == ["edgeai.lineage", "edgeai.signature"]
    onnx.checker.check_model(str(tmp_path / "m.onnx"))
    assert answer(tmp_path / "m.onnx").shape == (2, 32)


def test_a_draft_that_is_refused_leaves_what_was_there(tmp_path: Path) -> None:
    modelfile.save(model(), artifact(tmp_path / "m.onnx"), external_above_bytes=1000)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    draft = modelfile.draft(model(1), artifact(tmp_path / "m.onnx"), overwrite=True, external_above_bytes=1000)
    with pytest.raises(KeyError, match="refused"), draft:
        raise KeyError("refused")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_external_weights_come_home_when_they_fit(tmp_path: Path) -> None:
    modelfile.save(model(), artifact(tmp_path / "m.onnx"), external_above_bytes=1000)
    (tmp_path / "out").mkdir()
    modelfile.save(modelfile.load(tmp_path / "m.onnx"), artifact(tmp_path / "out" / "n.onnx"))
    assert os.listdir(tmp_path / "out") == ["n.onnx"]
    np.testing.assert_array_equal(answer(tmp_path / "out" / "n.onnx"), answer(tmp_path / "m.onnx"))


def test_a_graph_that_onnx_runtime_refuses_gets_no_name(tmp_path: Path) -> None:
    broken = model()
    next(iter(broken.graph)).op_type = "NoSuchOperator"
    with pytest.raises(ModelFormatError, match=r"m\.onnx: ONNX Runtime cannot open it"):
        modelfile.save(broken, artifact(tmp_path / "m.onnx"))
    with pytest.raises(ModelFormatError, match="cannot open it"):
        modelfile.save(broken, artifact(tmp_path / "m.onnx"), external_above_bytes=1000)
    assert os.listdir(tmp_path) == []


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_text("mine")
    with pytest.raises(ExistsError):
        modelfile.save(model(), artifact(tmp_path / "m.onnx"))
    assert (tmp_path / "m.onnx").read_text() == "mine"


@pytest.mark.parametrize("content", [b"", b"text", b"\x08\x07", bytes(range(200)), b"\xff" * 50])
def test_bytes_that_are_no_model(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelFormatError, match=r"m\.onnx"):
        modelfile.load(tmp_path / "m.onnx")


def test_a_truncated_model_is_refused(tmp_path: Path) -> None:
    modelfile.save(model(), artifact(tmp_path / "m.onnx"))
    whole = (tmp_path / "m.onnx").read_bytes()
    for length in range(0, len(whole), 501):
        (tmp_path / "m.onnx").write_bytes(whole[:length])
        with pytest.raises(ModelFormatError):
            modelfile.check(modelfile.open_artifact(tmp_path / "m.onnx").path)


def test_missing_files_and_directories_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="no such file"):
        modelfile.load(tmp_path / "m.onnx")
    with pytest.raises(ModelFormatError, match="is a directory"):
        modelfile.load(tmp_path)


def test_weights_outside_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    modelfile.save(model(), artifact(tmp_path / "in" / "m.onnx"), external_above_bytes=1000)
    (data,) = (tmp_path / "in").glob("*.data")
    data.rename(tmp_path / data.name)
    data.symlink_to(tmp_path / data.name)
    with pytest.raises(UnsafePathError, match="symbolic link"):
        modelfile.load(tmp_path / "in" / "m.onnx")


def test_unnamed_axes_get_names_and_missing_types_are_said() -> None:
    proto = onnx.parser.parse_model(TEXT.replace("float[batch,64]", "float[?,64]"))
    made = ir.from_proto(proto)
    assert modelfile.signature_of(made).inputs[0].shape == ("x_0", 64)
    made.graph.outputs[0].shape = None
    with pytest.raises(ModelFormatError, match="y: the graph declares no dtype or no shape"):
        modelfile.signature_of(made)


def test_the_signature_of_a_foreign_model_is_the_graph_s(tmp_path: Path) -> None:
    ir.save(model(), tmp_path / "foreign.onnx")
    found = modelfile.open_artifact(tmp_path / "foreign.onnx")
    assert found.lineage == ()
    assert found.signature == Signature(
        (TensorSpec("x", "float32", ("batch", 64)),), (TensorSpec("y", "float32", ("batch", 32)),)
    )


def test_a_missing_onnx_runtime_comes_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgeai\[cpu\]'"):
        ort.onnxruntime()


def test_telemetry_is_off_before_the_import_unless_you_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    ort.onnxruntime()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    ort.onnxruntime()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int8", "int4", "bool"])
def test_a_model_in_memory_keeps_its_large_weights_apart(dtype: str) -> None:
    kind = ir.DataType[{"float64": "DOUBLE", "float32": "FLOAT"}.get(dtype, dtype.upper())]
    values = (np.arange(4096) % 2).astype(kind.numpy()).reshape(64, 64)
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 21]> g (float[n, 64] x) => (float[n, 64] y, float[64] b) {
            c = Cast<to = 1>(w) p = MatMul(x, c) y = Add(p, b) }"""
    )
    made = ir.from_proto(proto)
    bias = np.arange(64, dtype=np.float32)
    for name, array in (("w", ir.Tensor(values, kind, name="w")), ("b", ir.tensor(bias, name="b"))):
        value = next(v for node in made.graph for v in node.inputs if v is not None and v.name == name)
        value.const_value = array
        made.graph.register_initializer(value)
    graph, apart = modelfile.in_memory(made)
    native = dtype not in ("bfloat16", "int4")
    assert list(apart) == (["w"] if native else []), "b is small, and an output"
    assert (len(graph) < 1500) == native
    assert isinstance(made.graph.initializers["w"].const_value, ir.Tensor), "the model is left as it is"
    onnxruntime = ort.onnxruntime()
    options = onnxruntime.SessionOptions()
    held = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in apart.values()]
    options.add_external_initializers(list(apart), held)
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    feed = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    np.testing.assert_allclose(session.run(None, {"x": feed})[0], feed @ values.astype(np.float32) + bias, rtol=1e-4)
