"""Rounding that errs in one direction shifts every answer; the bias takes the shift back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeai.artifact import Artifact
from edgeai.quantization import Int8Static, quantize
from edgeai.samples import Samples

_RANDOM = np.random.default_rng(5)


def _biased(*shape: int, inner: int) -> np.ndarray:
    """Weights that all round down: each is 0.4 steps above a multiple of a 63rd of the largest in its channel."""
    steps = _RANDOM.integers(-50, 50, shape) + 0.4
    flat = steps.reshape(shape[0], -1) if inner == 0 else steps.T.reshape(shape[1], -1)
    flat[:, 0] = 63.0
    weight = flat.reshape(shape) if inner == 0 else flat.T
    return np.ascontiguousarray(weight / 63.0 / 20.0, dtype=np.float32)


def _bias(*shape: int) -> np.ndarray:
    return (_RANDOM.standard_normal(shape) / 20).astype(np.float32)


_ROWS = Samples.from_rows({"x": _RANDOM.uniform(0.5, 1.5, (64, 48)).astype(np.float32)})
_IMAGES = Samples.from_rows({"x": _RANDOM.uniform(0.5, 1.5, (24, 8, 9, 9)).astype(np.float32)})
_CASES: dict[str, tuple[str, dict[str, np.ndarray], Samples]] = {
    "MatMul and Add": (
        "g (float[n, 48] x) => (float[n, 12] y) { h = MatMul(x, W) y = Add(h, b) }",
        {"W": _biased(48, 12, inner=1), "b": _bias(12)},
        _ROWS,
    ),
    "Gemm": (
        "g (float[n, 48] x) => (float[n, 12] y) { y = Gemm<transB = 1>(x, W, b) }",
        {"W": _biased(12, 48, inner=0), "b": _bias(12)},
        _ROWS,
    ),
    "Gemm without a bias": (
        "g (float[n, 48] x) => (float[n, 12] y) { y = Gemm(x, W) }",
        {"W": _biased(48, 12, inner=1)},
        _ROWS,
    ),
    "Conv": (
        "g (float[n, 8, 9, 9] x) => (float[n, 6, 7, 7] y) { y = Conv(x, W, b) }",
        {"W": _biased(6, 8, 3, 3, inner=0), "b": _bias(6)},
        _IMAGES,
    ),
    "grouped Conv without a bias": (
        "g (float[n, 8, 9, 9] x) => (float[n, 4, 7, 7] y) { y = Conv<group = 2>(x, W) }",
        {"W": _biased(4, 4, 3, 3, inner=0)},
        _IMAGES,
    ),
}


@pytest.mark.parametrize("name", _CASES)
def test_the_mean_error_goes_and_answers_get_better(
    name: str,
    write: Callable[..., Artifact],
    distance: Callable[..., float],
    answers: Callable[..., Any],
    tmp_path: Path,
) -> None:
    body, weights, samples = _CASES[name]
    artifact = write(body, **weights)
    options: dict[str, Any] = {"reduce_range": True}
    plain = quantize(artifact, Int8Static(**options), samples=samples, out=tmp_path / "plain.onnx")
    corrected = quantize(
        artifact, Int8Static(**options, bias_correction=True), samples=samples, out=tmp_path / "corrected.onnx"
    )
    assert (plain.lineage[-1].options["corrected_biases"], corrected.lineage[-1].options["corrected_biases"]) == (0, 1)

    def shift(candidate: Artifact) -> float:
        feed = next(samples.feeds(len(samples)))
        error = answers(candidate.path, feed)[0] - answers(artifact.path, feed)[0]
        return float(np.abs(error.mean(axis=(0, *range(2, error.ndim)))).max())

    assert shift(corrected) < 0.25 * shift(plain)
    assert distance(artifact, corrected, samples) < 0.75 * distance(artifact, plain, samples)


def test_a_product_that_no_constant_is_added_to_is_left(write: Callable[..., Artifact], tmp_path: Path) -> None:
    body = "g (float[n, 48] x) => (float[n, 12] y) { h = MatMul(x, W) y = Relu(h) }"
    artifact = write(body, W=_biased(48, 12, inner=1))
    done = quantize(artifact, Int8Static(bias_correction=True), samples=_ROWS, out=tmp_path / "q.onnx")
    assert done.lineage[-1].options["corrected_biases"] == 0


def test_a_bias_that_two_nodes_share_is_corrected_for_each(
    write: Callable[..., Artifact], distance: Callable[..., float], tmp_path: Path
) -> None:
    artifact = write(
        "g (float[n, 48] x) => (float[n, 12] y, float[n, 12] z) { y = Gemm(x, W, b) t = Tanh(x) z = Gemm(t, V, b) }",
        W=_biased(48, 12, inner=1), V=_biased(48, 12, inner=1) * 3, b=_bias(12),
    )  # fmt: skip
    plain = quantize(artifact, Int8Static(), samples=_ROWS, out=tmp_path / "plain.onnx")
    done = quantize(artifact, Int8Static(bias_correction=True), samples=_ROWS, out=tmp_path / "q.onnx")
    assert done.lineage[-1].options["corrected_biases"] == 2
    assert distance(artifact, done, _ROWS) < 0.6 * distance(artifact, plain, _ROWS)
