"""`edgeai debug`: the layer that loses the signal is found, and shown."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeai import modelfile
from edgeai.debugging import BEST_DB, debug, picture
from edgeai.errors import InputError, UsageError
from edgeai.samples import Samples


def model(path: Path, *, spoil: str = "", text: str = "") -> Path:
    random = np.random.default_rng(0)
    weights = {name: random.standard_normal((8, 8)).astype(np.float32) for name in "ABC"}
    if spoil:
        weights[spoil] += 0.1 * random.standard_normal((8, 8)).astype(np.float32)
    proto = onnx.parser.parse_model(
        text
        or """<ir_version: 10, opset_import: ["" : 20]> g (float[n, 8] x) => (float[n, 8] y) {
        a = MatMul(x, A) ra = Relu(a) b = MatMul(ra, B) rb = Tanh(b) y = MatMul(rb, C) }"""
    )
    used = {name for node in proto.graph.node for name in node.input}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(w, n) for n, w in weights.items() if n in used)
    onnx.save(proto, path)
    return path


def test_the_spoiled_layer_is_named(tmp_path: Path) -> None:
    found = debug(model(tmp_path / "a.onnx"), model(tmp_path / "b.onnx", spoil="B"))
    assert [tensor.name for tensor in found.tensors] == ["a", "ra", "b", "rb", "y"]
    by_name = {tensor.name: tensor for tensor in found.tensors}
    assert by_name["a"].sqnr_db == by_name["ra"].sqnr_db == BEST_DB
    assert found.worst(1)[0].name == "b" and found.worst(1)[0].op_type == "MatMul"
    assert 15 < by_name["b"].sqnr_db < 25  # a tenth of the weights is noise
    assert by_name["y"].lost_db < 10
    assert [tensor.name for tensor in found.outputs] == ["y"]


def test_decibels_are_the_ratio_of_the_squares(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]> g (float[n, 8] x) => (float[n, 8] y)
        {{ f = Constant<value_float = {}>() y = Mul(x, f) }}"""
    found = debug(
        model(tmp_path / "a.onnx", text=text.format("1.0")), model(tmp_path / "b.onnx", text=text.format("0.9")),
        Samples.from_rows({"x": np.ones((4, 8), np.float32)}),
    )  # fmt: skip
    assert found.feeds == 1
    assert found.outputs[0].sqnr_db == pytest.approx(20, abs=1e-4)


def test_the_picture_names_the_worst(tmp_path: Path) -> None:
    found = debug(model(tmp_path / "a.onnx"), model(tmp_path / "b.onnx", spoil="B"))
    picture(found, tmp_path / "noise.svg")
    root = ElementTree.parse(tmp_path / "noise.svg").getroot()
    space = "{http://www.w3.org/2000/svg}"
    line = root.find(f"{space}polyline")
    assert line is not None and len(line.attrib["points"].split()) == len(found.tensors)
    titles = [title.text or "" for title in root.iter(f"{space}title")]
    assert any(text.startswith("b (MatMul): ") for text in titles)


def test_files_that_have_nothing_in_common_are_refused(tmp_path: Path) -> None:
    other = """<ir_version: 10, opset_import: ["" : 20]> g (float[n, 8] x) => (float[n, 8] z) { z = Relu(x) }"""
    with pytest.raises(UsageError, match="has no tensor by a name of"):
        debug(model(tmp_path / "a.onnx"), model(tmp_path / "b.onnx", text=other))
    renamed = other.replace("x", "input").replace("Relu", "Relu")
    with pytest.raises(InputError, match="takes other inputs"):
        debug(tmp_path / "a.onnx", model(tmp_path / "c.onnx", text=renamed.replace("float[n, 8] z", "float[n, 8] y")))


def test_a_quantized_file_is_compared_with_its_source(built: object, exported: object, tmp_path: Path) -> None:
    from edgeai.quantization import Int8Dynamic, quantize

    source = modelfile.open_artifact(exported("transformer"))  # type: ignore[operator]
    quantize(source, Int8Dynamic(), out=tmp_path / "q.onnx")
    found = debug(source.path, tmp_path / "q.onnx")
    assert len(found.tensors) > 10
    assert 10 < found.outputs[0].sqnr_db < 80
