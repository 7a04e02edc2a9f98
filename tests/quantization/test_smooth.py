"""SmoothQuant: float answers stay, and integer answers get better where some channels dwarf the others."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.errors import QuantizationError
from edgeai.quantization import Int8Static, quantize
from edgeai.quantization import smooth as smooth_module
from edgeai.samples import Samples

_RANDOM = np.random.default_rng(21)
_OUTLIERS = np.where(np.arange(32) % 11 == 3, 60.0, 1.0).astype(np.float32)
_NORM = "n = LayerNormalization(x, gamma, beta)"


def _floats(*shape: int) -> np.ndarray:
    return _RANDOM.standard_normal(shape).astype(np.float32)


_WEIGHTS = {
    "W": _floats(32, 32) / 6, "V": _floats(16, 32) / 6, "b": _floats(16), "gamma": _OUTLIERS,
    "beta": _OUTLIERS * _floats(32) / 8,
}  # fmt: skip
_SAMPLES = Samples.from_feeds([{"x": _floats(4, n, 32)} for n in (3, 9, 6, 12)])


def _artifact(write: Callable[..., Artifact], body: str, **weights: np.ndarray) -> Artifact:
    words = re.findall(r"\w+", body)
    used = {name: array for name, array in (_WEIGHTS | weights).items() if name in words}
    return write(f"g (float[b, s, 32] x) => (float[b, s, m] y) {{ {body} }}", **used)


@pytest.mark.parametrize(
    ("body", "expected", "operators_added"),
    [
        (f"{_NORM} y = MatMul(n, W)", {"folded": 1, "multiplied": 0, "left": 0}, 0),
        (f"{_NORM} p = MatMul(n, W) q = MatMul(n, U) y = Add(p, q)", {"folded": 1, "multiplied": 0, "left": 0}, 0),
        ("n = Mul(x, gamma) y = MatMul(n, W)", {"folded": 1, "multiplied": 0, "left": 0}, 0),
        # Something else reads the norm, as the residual does in every BERT.
        (f"{_NORM} p = MatMul(n, W) t = Tanh(n) y = Add(p, t)", {"folded": 0, "multiplied": 1, "left": 0}, 1),
        (f"{_NORM} e = Gelu(n) y = MatMul(e, W)", {"folded": 0, "multiplied": 1, "left": 0}, 1),
    ],
)
def test_outlier_channels_stop_hurting_the_others(
    write: Callable[..., Artifact], distance: Callable[..., float], operators: Callable[..., Any], tmp_path: Path,
    body: str, expected: dict[str, int], operators_added: int,
) -> None:  # fmt: skip
    # The weights meet the large channels with small numbers, as trained models do.
    shrunk = _WEIGHTS["W"] / _OUTLIERS[:, None]
    artifact = _artifact(write, body, W=shrunk, U=shrunk * np.float32(0.7))
    plain = quantize(artifact, Int8Static(), samples=_SAMPLES, out=tmp_path / "plain.onnx")
    smoothed = quantize(artifact, Int8Static(smooth=0.5), samples=_SAMPLES, out=tmp_path / "smooth.onnx")
    assert smoothed.lineage[-1].options["smoothed"] == expected
    assert plain.lineage[-1].options["smoothed"] == {"folded": 0, "multiplied": 0, "left": 0}
    assert operators(smoothed)["Mul"] == operators(artifact)["Mul"] + operators_added
    assert smoothed.lineage[-1].options["coverage"]["integer_nodes"] >= operators(artifact)["MatMul"], (
        "its products stay integer"
    )
    assert distance(artifact, smoothed, _SAMPLES) < 0.3 * distance(artifact, plain, _SAMPLES)


def test_what_an_integer_operator_has_rounded_is_left_alone(write: Callable[..., Artifact], tmp_path: Path) -> None:
    artifact = _artifact(write, "h = MatMul(x, W) r = Relu(h) y = MatMul(r, W)")
    done = quantize(artifact, Int8Static(smooth=0.5), samples=_SAMPLES, out=tmp_path / "q.onnx")
    assert done.lineage[-1].options["smoothed"] == {"folded": 0, "multiplied": 1, "left": 1}


def test_a_transposed_weight_and_dead_channels(
    write: Callable[..., Artifact], distance: Callable[..., float], tmp_path: Path
) -> None:
    weight = _WEIGHTS["V"].copy()
    weight[:, 4] = 0.0
    artifact = write(
        "g (float[n, 32] x) => (float[n, 16] y) { e = Mul(x, dead) h = Tanh(e) y = Gemm<transB = 1>(h, V, b) }",
        V=weight, b=_WEIGHTS["b"], dead=np.where(np.arange(32) == 7, 0.0, 1.0).astype(np.float32),
    )  # fmt: skip
    samples = Samples.from_rows({"x": _floats(40, 32)})
    done = quantize(artifact, Int8Static(smooth=0.7), samples=samples, out=tmp_path / "q.onnx")
    assert distance(artifact, done, samples) < 0.03
    assert done.lineage[-1].options["smoothed"]["multiplied"] == 1


def test_a_smoothing_that_changes_float_answers_is_refused(
    write: Callable[..., Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(graph: ir.Graph, node: ir.Node, scales: np.ndarray) -> bool:
        return True  # claims to have divided

    monkeypatch.setattr(smooth_module, "_fold", wrong)
    artifact = _artifact(write, f"{_NORM} y = MatMul(n, W)")
    with pytest.raises(QuantizationError, match="smoothing alone changes y by .* in sample 0"):
        quantize(artifact, Int8Static(smooth=0.5), samples=_SAMPLES, out=tmp_path / "q.onnx")
    assert not (tmp_path / "q.onnx").exists()


def test_the_float_model_is_not_changed(write: Callable[..., Artifact], tmp_path: Path) -> None:
    artifact = _artifact(write, f"{_NORM} y = MatMul(n, W)")
    before = artifact.path.read_bytes()
    quantize(artifact, Int8Static(smooth=0.5), samples=_SAMPLES, out=tmp_path / "q.onnx")
    assert artifact.path.read_bytes() == before
    assert modelfile.load(artifact.path).graph.initializers["W"].const_value.numpy().shape == (32, 32)
