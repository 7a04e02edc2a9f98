"""edgeai lint, and edgeai optimize's choice of form and target-specific output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from edgeai.cli import group

pytestmark = pytest.mark.filterwarnings("ignore:Ignoring unknown external data key:UserWarning")
_MLP = '<ir_version: 9, opset_import: ["": 20]> g (float[n, 32] x) => (float[n, 32] y) { h = MatMul(x, W) y = Relu(h) }'


@pytest.fixture
def model(tmp_path: Path) -> Path:
    proto = onnx.parser.parse_model(_MLP)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(32, dtype=np.float32), "W"))
    onnx.save(proto, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(group, [str(argument) for argument in arguments], standalone_mode=False)


def test_the_table_and_the_json_say_the_same(model: Path) -> None:
    table = _run("lint", model).output
    assert "0.0% of the weights as integers" in table
    assert "the model is not quantized" in table
    data = json.loads(_run("lint", model, "--target", "tensorrt", "--json").output)
    assert data["integer_share"] == 0.0
    assert data["rows"][0]["rule"] == "strong-typing"


@pytest.mark.parametrize(("allowed", "code"), [("100%", 0), ("10%", 3)])
def test_a_gate_for_scripts(model: Path, allowed: str, code: int) -> None:
    assert _run("lint", model, "--fail-if-float", allowed).return_value == code


def test_a_form_is_chosen_by_name(model: Path, tmp_path: Path) -> None:
    result = _run("optimize", model, "-o", tmp_path / "o.onnx", "--target", "openvino", "--form", "portable", "--json")
    assert json.loads(result.stdout)["options"]["form"] == "portable"
    refused = _run("optimize", model, "-o", tmp_path / "p.onnx", "--target", "openvino", "--form", "mha")
    assert "does not run form 'mha'" in str(refused.exception)


def test_a_form_brings_its_target(model: Path, tmp_path: Path) -> None:
    form = ("--form", "portable-separate-qkv")
    result = _run("optimize", model, "-o", tmp_path / "o.onnx", *form, "--json")
    assert json.loads(result.stdout)["options"]["target"] == "openvino"
    refused = _run("optimize", model, "-o", tmp_path / "p.onnx", *form, "--target", "cpu")
    assert "target 'cpu' does not run form" in str(refused.exception)


def test_a_target_specific_file_says_what_it_is_for(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.onnx"
    result = _run("optimize", model, "-o", out, "--target-specific", "--json")
    made_for: dict[str, Any] = json.loads(result.stdout)["options"]["made_for"]
    assert made_for["provider"] == "cpu"
    shown = _run("inspect", out).output
    assert f"ONNX Runtime {made_for['onnxruntime']}, cpu" in shown
    both = _run("optimize", model, "-o", out, "--target-specific", "--form", "mha")
    assert "--target-specific rewrites nothing" in str(both.exception)
