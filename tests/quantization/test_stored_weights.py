"""Weights whose operators have no integer kernels: smaller in the file, folded back when ONNX Runtime loads it."""

from __future__ import annotations

import collections
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.errors import QuantizationError
from edgeai.quantization import Int8Static, Int8Weight, quantize
from edgeai.quantization.sessions import open_session
from edgeai.samples import Samples

_RANDOM = np.random.default_rng(7)


def _floats(*shape: int) -> np.ndarray:
    return _RANDOM.standard_normal(shape).astype(np.float32)


_IMAGES = Samples.from_rows({"x": _floats(6, 4, 5, 5)})
_SPREAD = np.exp(_floats(8)).astype(np.float32)  # channels of very different sizes
_BODIES: dict[str, tuple[str, tuple[int, ...]]] = {
    "Conv": ("g (float[n, 4, 5, 5] x) => (float[n, 8, 3, 3] y) { y = Conv(x, W) }", (8, 4, 3, 3)),
    "grouped Conv": ("g (float[n, 4, 5, 5] x) => (float[n, 8, 3, 3] y) { y = Conv<group = 2>(x, W) }", (8, 2, 3, 3)),
    "ConvTranspose": ("g (float[n, 4, 5, 5] x) => (float[n, 8, 7, 7] y) { y = ConvTranspose(x, W) }", (4, 8, 3, 3)),
    "stacked MatMul": ("g (float[n, 4, 5, 5] x) => (float[n, 4, 5, 8] y) { y = MatMul(x, W) }", (4, 5, 8)),
    "weight first": ("g (float[n, 4, 5, 5] x) => (float[n, 4, 25, 5] y) { y = MatMul(W, x) }", (25, 5)),
}


@pytest.mark.parametrize("kind", _BODIES)
def test_a_weight_is_stored_in_a_quarter_with_a_scale_for_each_channel(
    kind: str, write: Callable[..., Artifact], distance: Any, tmp_path: Path
) -> None:
    body, shape = _BODIES[kind]
    channels = {"ConvTranspose": 1, "stacked MatMul": -1}.get(kind, 0)
    weight = _floats(*shape)
    if shape[channels] == 8:
        weight *= _SPREAD.reshape([-1 if axis == channels % len(shape) else 1 for axis in range(len(shape))])
    artifact = write(body, W=weight)
    done = quantize(artifact, Int8Weight(), out=tmp_path / "q.onnx")
    constants = modelfile.load(done.path).graph.initializers
    assert constants["W_int8"].const_value.numpy().dtype == np.int8
    scales = constants["W_scales"].const_value.numpy()
    assert scales.ndim == len(shape) and scales.shape[channels] == shape[channels]
    assert scales.size == shape[channels] * (shape[0] if kind == "stacked MatMul" else 1)
    assert done.lineage[-1].options["weight_errors"]["W"] < 0.01
    assert distance(artifact, done, _IMAGES) < 0.01


def test_the_runtime_folds_them_back_into_constants(write: Callable[..., Artifact], tmp_path: Path) -> None:
    body, shape = _BODIES["ConvTranspose"]
    done = quantize(write(body, W=_floats(*shape)), Int8Weight(), out=tmp_path / "q.onnx")
    open_session(done.path, level="basic", optimized=tmp_path / "optimized.onnx")
    assert [node.op_type for node in ir.load(tmp_path / "optimized.onnx").graph] == ["ConvTranspose"]


def test_between_the_integers_of_a_static_model_a_conv_transpose_stays_float(
    write: Callable[..., Artifact], operators: Any, distance: Any, tmp_path: Path
) -> None:
    artifact = write(
        """g (float[n, 4, 5, 5] x) => (float[n, 4, 7, 7] y) {
            a = Conv<pads = [1, 1, 1, 1]>(x, A) u = ConvTranspose(a, W) y = Conv<pads = [1, 1, 1, 1]>(u, B) }""",
        A=_floats(4, 4, 3, 3),
        W=_floats(4, 8, 3, 3),
        B=_floats(4, 8, 3, 3),
    )
    done = quantize(artifact, Int8Static(), samples=_IMAGES, out=tmp_path / "q.onnx")
    options = done.lineage[-1].options
    assert options["stored_only"] == ["W"] and options["coverage"]["float_names"] == ("ConvTranspose_1",)
    assert (options["coverage"]["integer_nodes"], options["coverage"]["stored_integer_share"]) == (2, 1.0)
    assert distance(artifact, done, _IMAGES) < 0.06
    kept = quantize(
        artifact, Int8Static(exclude=("ConvTranspose_1",)), samples=_IMAGES, out=tmp_path / "k.onnx"
    )  # fmt: skip
    assert kept.lineage[-1].options["stored_only"] == []
    assert "W" in modelfile.load(kept.path).graph.initializers


def test_what_others_read_or_would_grow_is_left_alone(write: Callable[..., Artifact], tmp_path: Path) -> None:
    artifact = write(
        """g (float[n, 4, 5, 5] x) => (float[n, 8, 3, 3] y, float[8, 4, 3, 3] z, float[n, 4, 5, 5] d) {
            a = Conv(x, A) b = Conv(x, B) y = Add(a, b) z = Relu(B) d = Conv<group = 4>(x, D) }""",
        A=_floats(8, 4, 3, 3),
        B=_floats(8, 4, 3, 3),
        D=_floats(4, 1, 1, 1),
    )
    done = quantize(artifact, Int8Weight(), out=tmp_path / "q.onnx")
    assert set(modelfile.load(done.path).graph.initializers) == {"A_int8", "A_scales", "B", "D"}
    assert done.lineage[-1].options["coverage"]["float_nodes"] == 3


def test_two_readers_of_one_weight_read_the_same_integers(
    write: Callable[..., Artifact], operators: Any, tmp_path: Path
) -> None:
    artifact = write(
        "g (float[n, 4, 5, 5] x) => (float[n, 4, 5, 5] y) { a = Conv<pads = [1, 1, 1, 1]>(x, W) "
        "y = Conv<pads = [1, 1, 1, 1]>(a, W) }",
        W=_floats(4, 4, 3, 3),
    )
    done = quantize(artifact, Int8Weight(), out=tmp_path / "q.onnx")
    assert operators(done) == collections.Counter({"Conv": 2, "Cast": 1, "Mul": 1})


def test_a_weight_of_zeros_and_one_that_is_not_finite(
    write: Callable[..., Artifact], answers: Any, tmp_path: Path
) -> None:
    body, shape = _BODIES["Conv"]
    done = quantize(write(body, W=np.zeros(shape, np.float32)), Int8Weight(), out=tmp_path / "q.onnx")
    assert not answers(done.path, {"x": _floats(2, 4, 5, 5)})[0].any()
    weight = _floats(*shape)
    weight[0, 0, 0, 0] = np.inf
    with pytest.raises(QuantizationError, match="weight W holds NaN or infinity"):
        quantize(write(body, W=weight), Int8Weight(), out=tmp_path / "r.onnx")
