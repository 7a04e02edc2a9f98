"""`edgeai doctor` and `edgeai compile`, as a shell sees them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeai.artifact import Artifact
from edgeai.bundle import pack
from edgeai.machine import machine
from edgeai.runtime.providers import PROVIDERS, probing, reason
from edgeai.samples import Samples

LONGEST_S = probing._LONGEST_S * len(PROVIDERS)  # the doctor tries one after the other


def edgeai(*arguments: object, cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgeai", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=LONGEST_S,
        env={**os.environ, "EDGEAI_CACHE": str(cache), "COLUMNS": "80"},
    )  # fmt: skip


@pytest.fixture
def relu(tmp_path: Path) -> Path:
    text = '<ir_version: 8, opset_import: ["": 17]> r (float[n,4] x) => (float[n,4] y) { y = Relu(x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "relu.onnx")
    return tmp_path / "relu.onnx"


def test_run_says_that_a_bundle_was_proven_elsewhere(tmp_path: Path, relu: Path) -> None:
    pack(Artifact(relu), tmp_path / "m.bundle", proven_on={"architecture": "abacus"}).close()
    Samples.from_feeds([{"x": np.ones((1, 4), np.float32)}]).save(tmp_path / "x.npz")
    done = edgeai(
        "run", tmp_path / "m.bundle", "--input", tmp_path / "x.npz", "-o", tmp_path / "y.npz", "--ep", "cpu",
        cache=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr.splitlines() == [f"proven on architecture abacus, here it is {machine().architecture}"]


def test_doctor_says_everything_as_data(tmp_path: Path) -> None:
    done = edgeai("doctor", "--json", cache=tmp_path)
    found = json.loads(done.stdout)
    assert done.returncode == (0 if found["healthy"] else 1), done.stderr
    assert {row["subject"] for row in found["findings"]} >= {"telemetry", "cpu", "cuda", "tensorrt", "openvino", "qnn"}
    assert {row["level"] for row in found["findings"]} <= {"ok", "note", "problem"}
    assert found["machine"]["cores"] >= 1


def test_doctor_shows_a_row_for_every_finding(tmp_path: Path) -> None:
    lines = edgeai("doctor", cache=tmp_path).stdout.splitlines()
    assert any(line.startswith("ok  cpu") or line.split()[:2] == ["ok", "cpu"] for line in lines)
    if reason("qnn"):
        (line,) = [line for line in lines if line.split()[1:2] == ["qnn"]]
        assert "pip install onnxruntime-qnn" in line


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--ep", "cpu"), 1, "execution provider cpu compiles nothing ahead"),
        (("--ep", "tensort"), 2, "did you mean tensorrt?"),
        (("--ep", "tensorrt", "--option", "fp16"), 2, "expected NAME=VALUE"),
        (("--ep", "tensorrt", "--option", "fp61=1"), 2, "did you mean fp16?"),
        ((), 2, "Missing option '--ep'"),
    ],
)
def test_compile_refuses_in_one_line(
    tmp_path: Path, relu: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    out = tmp_path / "compiled.onnx"
    done = edgeai("compile", relu, "-o", out, *arguments, cache=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr.splitlines()[-1]
    assert not out.exists()
