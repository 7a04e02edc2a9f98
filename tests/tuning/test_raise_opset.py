"""A model of an old opset is raised before it is quantized: said aloud, proven, and in the lineage."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.errors import QuantizationError
from edgeai.quantization import Int8Dynamic, Int8Static, quantize
from edgeai.tuning.measuring import quantize_measured
from edgeai.tuning.raising import raise_opset

_LINEAR = "g (float[n, 64] x) => (float[n, 32] y) { h = MatMul(x, W) y = Relu(h) }"


def _write(path: Path, opset: int, body: str = _LINEAR) -> Artifact:
    model = onnx.parser.parse_model(f'<ir_version: 4, opset_import: ["": {opset}]> {body}')
    weight = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "W"))
    onnx.save(model, path)
    return modelfile.open_artifact(path)


def test_the_command_takes_an_old_file_and_says_what_it_did(tmp_path: Path) -> None:
    _write(tmp_path / "old.onnx", 7)
    command = [sys.executable, "-m", "edgeai", "quantize", str(tmp_path / "old.onnx"), "-p", "int8-dynamic"]
    options = ["-o", str(tmp_path / "q.onnx"), "--force", "--json"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "opset 7 was raised to 11, which int8-dynamic needs; it answers as before" in done.stderr
    assert json.loads(done.stdout)["options"]["recipe"] == "int8-dynamic"
    written = modelfile.open_artifact(tmp_path / "q.onnx")
    assert [step.tool for step in written.lineage] == ["optimize", "quantize", "measure"]
    assert written.lineage[0].options["passes"] == ["RaiseOpset"]
    assert modelfile.load(written.path).opset_imports[""] == 11
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.onnx", "q.onnx"]


def test_a_new_file_is_left_alone(tmp_path: Path) -> None:
    artifact = _write(tmp_path / "new.onnx", 13)
    assert raise_opset(artifact, Int8Static(), out=tmp_path / "raised.onnx") is artifact
    assert not (tmp_path / "raised.onnx").exists()


def test_what_cannot_be_raised_is_refused_with_the_reason(tmp_path: Path) -> None:
    """Upsample was taken out of ONNX in opset 10, and the converter knows no way for one with computed scales."""
    body = """g (float[n, 64] x, float[2] s) => (float[a, b] y) {
        h = MatMul(x, W) y = Upsample<mode = "nearest">(h, s) }"""
    artifact = _write(tmp_path / "old.onnx", 9, body)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(QuantizationError, match="opset 9, but int8-dynamic needs at least 11, and it cannot be raised"):
        quantize_measured(artifact, Int8Dynamic(), out=tmp_path / "q.onnx")
    assert sorted(tmp_path.iterdir()) == before


def test_a_quantized_file_is_passed_through_unmeasured(tmp_path: Path) -> None:
    quantized = quantize(_write(tmp_path / "float.onnx", 13), Int8Dynamic(), out=tmp_path / "q.onnx")
    passed, harm = quantize_measured(quantized, Int8Static(), out=tmp_path / "p.onnx", quantized_input="pass")
    assert harm is None
    assert [step.tool for step in modelfile.open_artifact(passed.path).lineage] == ["quantize", "quantize"]
    with pytest.raises(QuantizationError, match="is quantized already"):
        quantize_measured(quantized, Int8Dynamic(), out=tmp_path / "r.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["float.onnx", "p.onnx", "q.onnx"]


def test_the_table_names_what_stays_float(tmp_path: Path) -> None:
    body = """g (float[s, n, 64] x) => (float[s, 1, n, 8] y, float[s, n, 32] z) {
        [recurrent] y = GRU<hidden_size = 8>(x, G, R) z = MatMul(x, W) }"""
    artifact = _write(tmp_path / "float.onnx", 14, body)
    model = onnx.load(artifact.path)
    shapes = {"G": (1, 24, 64), "R": (1, 24, 8)}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in shapes.items()
    )
    model.ir_version = 7
    onnx.save(model, artifact.path)
    command = [sys.executable, "-m", "edgeai", "quantize", str(artifact.path), "-p", "int8-dynamic", "--force"]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "q.onnx")], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"stays float +recurrent \(46% of the weights are stored as integers for them\)\n", done.stdout)
