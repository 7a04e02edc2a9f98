from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.errors import QuantizationError
from edgeai.quantization import Coverage, Int8Dynamic, Int8Static, measure_coverage, quantize
from edgeai.quantization.coverage import count, quantized_marks
from edgeai.samples import Samples

_W = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)
_TWO = "g (float[n, 16] x) => (float[n, 8] y) { h = MatMul(x, S) y = MatMul(h, W) }"
_SQUARE = np.random.default_rng(1).standard_normal((16, 16)).astype(np.float32)


def test_a_float_model_covers_nothing_and_names_its_nodes(write: Callable[..., Artifact]) -> None:
    artifact = write(
        """g (float[n, 16] x) => (float[n, 8] y, float[n, n] z) {
            [first] h = MatMul(x, S) y = Gemm(h, W, b) t = Transpose(x) z = MatMul(x, t) }""",
        S=_SQUARE,
        W=_W,
        b=_W[0],
    )
    found = measure_coverage(artifact.path)
    assert (found.integer_nodes, found.float_nodes, found.integer_weight_share) == (0, 2, 0.0)
    assert "first" in found.float_names, "products of activations are not counted"


def test_the_share_is_of_weight_elements(write: Callable[..., Artifact], tmp_path: Path) -> None:
    artifact = write(_TWO, S=_SQUARE, W=_W)
    done = quantize(artifact, Int8Dynamic(exclude=("MatMul_1",)), out=tmp_path / "q.onnx")
    assert measure_coverage(done.path) == Coverage(1, 1, 2 / 3, ("MatMul_1",), stored_integer_share=2 / 3)


def test_what_is_stored_as_integers_but_multiplied_as_floats_counts_as_float(
    write: Callable[..., Artifact], tmp_path: Path
) -> None:
    """int8 activations have no integer kernel on x86 without a session option: half of the nodes stay float."""
    artifact = write(
        "g (float[n, 16] x) => (float[n, 8] y) { h = DequantizeLinear(Q, scale, zero) y = MatMul(x, h) }",
        Q=np.ones((16, 8), np.int8),
        scale=np.array(0.5, np.float32),
        zero=np.array(0, np.int8),
    )
    found = count(modelfile.load(artifact.path))
    assert (found.integer_nodes, found.float_nodes, found.integer_weight_share) == (0, 1, 0.0)


def test_weights_in_subgraphs_are_counted(write: Callable[..., Artifact], tmp_path: Path) -> None:
    artifact = write(
        """g (float[n, 16] x) => (float[n, 4] y) {
            h = MatMul(x, W) s = ReduceSum<keepdims = 0>(h) c = Greater(s, zero)
            y = If(c) <then_branch = t () => (float[n, 4] p) { [inner] p = MatMul(h, V) },
                       else_branch = e () => (float[n, 4] q) { q = MatMul(h, V) }> }""",
        W=_W,
        V=_W[:8, :4].copy(),
        zero=np.array(0, np.float32),
    )
    done = quantize(artifact, Int8Dynamic(exclude=("inner",)), out=tmp_path / "q.onnx")
    coverage = done.lineage[-1].options["coverage"]
    assert (coverage["integer_nodes"], coverage["float_names"]) == (2, ("inner",))
    assert coverage["integer_weight_share"] == pytest.approx((128 + 32) / (128 + 64))
    everywhere = quantize(artifact, Int8Dynamic(), out=tmp_path / "d.onnx").lineage[-1].options["coverage"]
    assert (everywhere["integer_nodes"], everywhere["float_names"]) == (3, ())


def test_static_products_of_two_activations_are_integers_without_weights(
    write: Callable[..., Artifact], tmp_path: Path
) -> None:
    artifact = write(
        "g (float[n, 16] x) => (float[n, n] y) { h = MatMul(x, S) t = Transpose(h) y = MatMul(x, t) }", S=_SQUARE
    )
    samples = Samples.from_rows({"x": _SQUARE})
    done = quantize(artifact, Int8Static(), samples=Samples.from_feeds([dict(samples.rows)]), out=tmp_path / "q.onnx")
    assert measure_coverage(done.path) == Coverage(2, 0, 1.0, (), stored_integer_share=1.0)


def test_marks_of_a_quantized_model_are_named_once(write: Callable[..., Artifact], tmp_path: Path) -> None:
    artifact = write(_TWO, S=_SQUARE, W=_W)
    assert quantized_marks(modelfile.load(artifact.path)) == []
    done = quantize(artifact, Int8Dynamic(), out=tmp_path / "q.onnx")
    assert quantized_marks(modelfile.load(done.path)) == ["DynamicQuantizeLinear", "MatMulInteger"]


def test_a_file_that_does_not_open_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(QuantizationError, match="ONNX Runtime does not open the model"):
        measure_coverage(path)
