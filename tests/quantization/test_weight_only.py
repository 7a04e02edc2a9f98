from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.errors import QuantizationError, UsageError
from edgeai.quantization import Int4Weight, Int8Weight, quantize
from edgeai.samples import Samples

_RANDOM = np.random.default_rng(3)


def _floats(*shape: int) -> np.ndarray:
    return _RANDOM.standard_normal(shape).astype(np.float32)


_E = _floats(24, 64)
_IDS = Samples.from_rows({"ids": _RANDOM.integers(0, 24, 64)})
_TIED = {
    "a transposed copy": ("y = MatMul(h, T)", {"E": _E, "T": np.ascontiguousarray(_E.T)}),
    "a Transpose": ("t = Transpose<perm = [1, 0]>(E) y = MatMul(h, t)", {"E": _E}),
    "a Gemm": ("y = Gemm<transB = 1>(h, E)", {"E": _E}),
}


@pytest.mark.parametrize("tie", _TIED)
@pytest.mark.parametrize("symmetric", [True, False])
def test_an_embedding_and_its_head_are_stored_once(
    tie: str, symmetric: bool, write: Callable[..., Artifact], operators: Any, distance: Any, tmp_path: Path
) -> None:
    head, weights = _TIED[tie]
    artifact = write(f"g (int64[n] ids) => (float[n, 24] y) {{ e = Gather(E, ids) h = Relu(e) {head} }}", **weights)
    recipe = Int4Weight(symmetric=symmetric)
    done = quantize(artifact, recipe, out=tmp_path / "q.onnx")
    assert done.lineage[-1].options["shared"] == ["E"]
    counts = operators(done)
    assert (counts["MatMulNBits"], counts["GatherBlockQuantized"], counts["Gather"], counts["MatMul"]) == (1, 1, 0, 0)
    constants = modelfile.load(done.path).graph.initializers
    parts = {"E_int4", "E_scales", "E_int4_shape"} | (set() if symmetric else {"E_zero_points"})
    assert set(constants) == parts
    assert constants["E_int4"].const_value.shape.numpy() == (24, 2, 16)
    assert distance(artifact, done, _IDS) < 0.2


def test_embeddings_stay_float_if_asked_and_the_head_does_not(
    write: Callable[..., Artifact], operators: Any, tmp_path: Path
) -> None:
    head, weights = _TIED["a Gemm"]
    artifact = write(f"g (int64[n] ids) => (float[n, 24] y) {{ h = Gather(E, ids) {head} }}", **weights)
    done = quantize(artifact, Int4Weight(embeddings=False), out=tmp_path / "q.onnx")
    assert (operators(done)["MatMulNBits"], operators(done)["Gather"]) == (1, 1)


@pytest.mark.parametrize("columns", [63, 64, 100])
def test_an_embedding_alone_is_not_padded(
    columns: int, write: Callable[..., Artifact], distance: Any, tmp_path: Path
) -> None:
    artifact = write(
        "g (int64[n] ids) => (float[n, 8] y) { e = Gather(E, ids) y = MatMul(e, W) }",
        E=_floats(24, columns),
        W=_floats(columns, 8),
    )
    done = quantize(artifact, Int4Weight(), out=tmp_path / "q.onnx")
    assert modelfile.load(done.path).graph.initializers["E_int4"].const_value.shape.numpy() == (24, -(-columns // 2))
    assert distance(artifact, done, _IDS) < 0.2


@pytest.mark.parametrize(
    ("shape", "fused"), [((8,), True), ((1, 8), False), ((), False), ((1,), False), ((2, 8), False)]
)
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_bias_of_a_gemm_is_kept(
    shape: tuple[int, ...], fused: bool, symmetric: bool, write: Callable[..., Artifact], answers: Any, operators: Any,
    tmp_path: Path,
) -> None:  # fmt: skip
    artifact = write("g (float[2, 64] x) => (float[2, 8] y) { y = Gemm(x, W, b) }", W=_floats(64, 8), b=_floats(*shape))
    done = quantize(artifact, Int8Weight(symmetric=symmetric), out=tmp_path / "q.onnx")
    assert operators(done)["Add"] == (0 if fused else 1)
    x = {"x": _floats(2, 64)}
    np.testing.assert_allclose(answers(done.path, x)[0], answers(artifact.path, x)[0], atol=0.4)


@pytest.mark.parametrize("recipe", [Int4Weight(), Int8Weight()])
def test_weights_in_both_branches_of_an_if(
    recipe: Any, write: Callable[..., Artifact], operators: Any, distance: Any, tmp_path: Path
) -> None:
    artifact = write(
        """g (float[n, 64] x) => (float[n, 8] y) {
            s = ReduceSum<keepdims = 0>(x) c = Greater(s, zero)
            y = If(c) <then_branch = t () => (float[n, 8] p) { p = MatMul(x, W) },
                       else_branch = e () => (float[n, 8] q) { q = Gemm(x, W, b) }> }""",
        W=_floats(64, 8),
        b=_floats(8),
        zero=np.array(0, np.float32),
    )
    done = quantize(artifact, recipe, out=tmp_path / "q.onnx")
    assert operators(done)["MatMulNBits"] == 2
    assert distance(artifact, done, Samples.from_feeds([{"x": _floats(4, 64)} for _ in range(8)])) < 0.2


def test_samples_bring_gptq_closer_than_rounding(write: Callable[..., Artifact], distance: Any, tmp_path: Path) -> None:
    mixing = _floats(64, 64) * np.exp(_floats(64))
    samples = Samples.from_rows({"x": (_floats(256, 64) @ mixing).astype(np.float32)})
    artifact = write(
        "g (float[n, 64] x) => (float[n, 32] y) { h = MatMul(x, W) y = MatMul(h, V) }",
        W=_floats(64, 64),
        V=_floats(64, 32),
    )

    def error(recipe: Int4Weight) -> float:
        done = quantize(artifact, recipe, samples=samples, out=tmp_path / "q.onnx", overwrite=True)
        return float(distance(artifact, done, samples))

    nearest, searched, made_up = (error(Int4Weight(method=method)) for method in ("rtn", "k-quant", "gptq"))
    assert made_up < searched < nearest
    with pytest.raises(QuantizationError, match="int4-weight needs calibration samples"):
        quantize(artifact, Int4Weight(method="gptq"), out=tmp_path / "r.onnx")


def test_moments_are_observed_a_few_tensors_at_a_time(
    write: Callable[..., Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = write(
        "g (float[n, 64] x) => (float[n, 32] y) { h = MatMul(x, W) r = Relu(h) y = MatMul(r, V) }",
        W=_floats(64, 64),
        V=_floats(64, 32),
    )
    samples = Samples.from_rows({"x": _floats(32, 64)})
    paths = []
    for limit in (1, 1 << 30):
        monkeypatch.setattr("edgeai.quantization.moments._GROUP_BYTES", limit)
        out = tmp_path / f"{limit}.onnx"
        paths.append(quantize(artifact, Int4Weight(method="gptq"), samples=samples, out=out).path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_smaller_blocks_are_closer_and_larger(write: Callable[..., Artifact], distance: Any, tmp_path: Path) -> None:
    weight = _floats(256, 64) * np.exp(_floats(256, 64) / 2)
    artifact = write("g (float[n, 256] x) => (float[n, 64] y) { y = MatMul(x, W) }", W=weight)
    samples = Samples.from_rows({"x": _floats(32, 256)})
    done = [quantize(artifact, Int4Weight(size), out=tmp_path / f"{size}.onnx") for size in (32, 64, 128)]
    errors = [distance(artifact, each, samples) for each in done]
    assert errors == sorted(errors)
    sizes = [each.path.stat().st_size for each in done]
    assert sizes == sorted(sizes, reverse=True)


def test_choices_stand_in_the_lineage(write: Callable[..., Artifact], tmp_path: Path) -> None:
    artifact = write("g (float[n, 64] x) => (float[n, 8] y) { y = MatMul(x, W) }", W=_floats(64, 8))
    options = quantize(artifact, Int4Weight(64, False, "hqq"), out=tmp_path / "q.onnx").lineage[-1].options
    assert (options["block_size"], options["symmetric"], options["method"]) == (64, False, "hqq")
    assert options["accuracy_level"] == 4
    assert 0.01 < options["weight_errors"]["W"] < 0.2


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"block_size": 48}, "block size 48 has no kernels"), ({"accuracy_level": 2}, "accuracy level 2")],
)
def test_what_has_no_kernels_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Int4Weight(**options)


def test_weights_that_would_grow_stay_float_and_that_is_said(write: Callable[..., Artifact], tmp_path: Path) -> None:
    artifact = write("g (float[n, 2] x) => (float[n, 8] y) { y = MatMul(x, W) }", W=_floats(2, 8))
    with pytest.raises(QuantizationError, match="so small that integers take more room"):
        quantize(artifact, Int4Weight(), out=tmp_path / "q.onnx")


def test_a_vector_times_a_matrix(write: Callable[..., Artifact], answers: Any, tmp_path: Path) -> None:
    artifact = write("g (float[64] x) => (float[8] y) { y = MatMul(x, W) }", W=_floats(64, 8))
    done = quantize(artifact, Int8Weight(), out=tmp_path / "q.onnx")
    x = {"x": _floats(64)}
    np.testing.assert_allclose(answers(done.path, x)[0], answers(artifact.path, x)[0], atol=0.3)


@pytest.mark.parametrize("recipe", [Int4Weight(), Int8Weight()])
def test_a_column_of_zeros_answers_zero(
    recipe: Any, write: Callable[..., Artifact], answers: Any, tmp_path: Path
) -> None:
    """The kernels sum before they subtract the zero point: a large scale would make that rounding an answer."""
    weight = _floats(64, 8)
    weight[:, 3] = 0
    artifact = write("g (float[n, 64] x) => (float[n, 8] y) { y = MatMul(x, W) }", W=weight)
    done = quantize(artifact, recipe, out=tmp_path / "q.onnx")
    assert np.abs(answers(done.path, {"x": _floats(20, 64) * 1000})[0][:, 3]).max() < 1e-4
