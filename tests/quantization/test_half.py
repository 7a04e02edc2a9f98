"""fp16 and bf16: what must stay float32 does, nothing becomes NaN, and Casts stand only where they must."""

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
from edgeai.errors import QuantizationError, UsageError
from edgeai.quantization import BFloat16, Float16, quantize
from edgeai.quantization.half import BFLOAT16, FLOAT16
from edgeai.samples import Samples

_RANDOM = np.random.default_rng(9)


def _floats(*shape: int) -> np.ndarray:
    return _RANDOM.standard_normal(shape).astype(np.float32)


_X = Samples.from_rows({"x": _floats(16, 16)})
_SQUARES = {"W": _floats(16, 16) / 4, "V": _floats(16, 16) / 4, "b": _floats(16)}


def dtypes(artifact: Artifact) -> dict[str, str]:
    initializers = modelfile.load(artifact.path).graph.initializers
    return {name: value.const_value.dtype.name for name, value in initializers.items()}


def test_one_region_has_one_cast_at_each_end(write: Any, operators: Any, distance: Any, tmp_path: Path) -> None:
    artifact = write(
        """g (float[n, 16] x) => (float[n, 16] y) {
            h = MatMul(x, W) a = Add(h, b) r = Relu(a) k = MatMul(r, V) y = Add(k, a) }""",
        **_SQUARES,
    )
    done = quantize(artifact, Float16(), samples=_X, out=tmp_path / "q.onnx")
    assert operators(done)["Cast"] == 2
    assert set(dtypes(done).values()) == {"FLOAT16"}
    assert done.lineage[-1].options["casts"] == 2
    assert distance(artifact, done, _X) < 0.002
    assert modelfile.signature_of(modelfile.load(done.path)) == artifact.signature


def test_what_leaves_the_range_stays_float(write: Any, distance: Any, tmp_path: Path) -> None:
    """x * 1e4 squared overflows float16 in the middle of the graph; the ends are small."""
    artifact = write(
        """g (float[n, 16] x) => (float[n, 16] y) {
            h = MatMul(x, W) l = Mul(h, large) q = Mul(l, l) s = Mul(q, small) y = MatMul(s, V) }""",
        W=_SQUARES["W"],
        V=_SQUARES["V"],
        large=np.array(1e4, np.float32),
        small=np.array(1e-8, np.float32),
    )
    done = quantize(artifact, Float16(), samples=_X, out=tmp_path / "q.onnx")
    kept = done.lineage[-1].options["kept_float"]
    assert set(kept) == {"Mul_1", "Mul_2", "Mul_3"}
    assert "reaches" in kept["Mul_2"]
    assert distance(artifact, done, _X) < 0.005


def test_an_epsilon_that_float16_rounds_to_zero_keeps_its_node_float(
    write: Any, answers: Any, operators: Any, tmp_path: Path
) -> None:
    artifact = write(
        """g (float[n, 16] x) => (float[n, 16] y) {
            h = MatMul(x, W) m = Mul(h, nothing) d = Add(m, epsilon) y = Div(m, d) }""",
        W=_SQUARES["W"],
        nothing=np.array(0, np.float32),
        epsilon=np.array(1e-12, np.float32),
    )
    done = quantize(artifact, Float16(), samples=_X, out=tmp_path / "q.onnx")
    assert done.lineage[-1].options["kept_float"]["Add_2"] == "epsilon cannot be rounded"
    assert dtypes(done)["epsilon"] == "FLOAT"
    np.testing.assert_array_equal(answers(done.path, {"x": _floats(3, 16)})[0], 0)


@pytest.mark.parametrize("hidden", [-3.4028235e38, -1e9, -1e4, -np.inf])
def test_a_mask_makes_no_new_nan(hidden: float, write: Any, answers: Any, tmp_path: Path) -> None:
    """Also in a row that is hidden wholly, where the float model answers, and with the mask added twice."""
    artifact = write(
        """g (float[n, 16] x, bool[n, 16] keep) => (float[n, 16] y) {
            h = MatMul(x, W) m = Where(keep, zero, hidden) a = Add(h, m) c = Add(a, m) p = Softmax(c) y = MatMul(p, V)
        }""",
        W=_SQUARES["W"],
        V=_SQUARES["V"],
        zero=np.array(0, np.float32),
        hidden=np.array(hidden, np.float32),
    )
    keep = _RANDOM.random((8, 16)) < 0.6
    keep[0] = False
    feeds = [{"x": _floats(8, 16), "keep": keep}]
    done = quantize(artifact, Float16(), samples=Samples.from_feeds(feeds), out=tmp_path / "q.onnx")
    want, got = answers(artifact.path, feeds[0])[0], answers(done.path, feeds[0])[0]
    assert not (np.isnan(got) & ~np.isnan(want)).any()
    np.testing.assert_allclose(got[1:], want[1:], atol=0.01)
    # -1e4 is no sign of a mask by itself: twice that is near the end of the range.
    assert hidden == -1e4 or "Softmax_4" not in done.lineage[-1].options["kept_float"]


def test_a_large_weight_keeps_its_node_float_and_a_tiny_one_too(write: Any, operators: Any, tmp_path: Path) -> None:
    artifact = write(
        """g (float[n, 16] x) => (float[n, 16] y) {
            a = MatMul(x, L) t = Mul(a, tiny) b = MatMul(t, T) m = Mul(b, large) y = MatMul(m, W) }""",
        L=_floats(16, 16) * 1e5,
        T=_floats(16, 16) * 1e-8,
        W=_SQUARES["W"],
        tiny=np.array(1e-5, np.float32),
        large=np.array(1e4, np.float32),
    )
    done = quantize(artifact, Float16(), samples=_X, out=tmp_path / "q.onnx")
    assert dtypes(done) | {"L": "", "T": ""} != dtypes(done), "both are still there under their own names"
    assert (dtypes(done)["L"], dtypes(done)["T"]) == ("FLOAT", "FLOAT")
    assert dtypes(done)["W_float16"] == "FLOAT16"


def test_a_region_without_a_product_is_not_worth_its_casts(write: Any, operators: Any, tmp_path: Path) -> None:
    artifact = write(
        "g (float[n, 16] x) => (float[n, 16] y) { r = Relu(x) e = Exp(r) m = Neg(e) s = Exp(m) y = MatMul(s, W) }",
        W=_SQUARES["W"],
    )
    done = quantize(artifact, Float16(), samples=_X, out=tmp_path / "q.onnx")
    assert operators(done)["Cast"] == 2, "around the MatMul"


def test_an_output_that_is_read_again_and_shapes_that_are_asked_for(
    write: Any, operators: Any, distance: Any, tmp_path: Path
) -> None:
    artifact = write(
        """g (float[n, 16] x) => (float[n, 16] h, float[n, 16] y) {
            h = MatMul(x, W) s = Shape(h) k = MatMul(h, V) y = Reshape(k, s) }""",
        W=_SQUARES["W"],
        V=_SQUARES["V"],
    )
    done = quantize(artifact, Float16(), samples=_X, out=tmp_path / "q.onnx")
    assert operators(done)["Cast"] == 3, "x in, h and y out; Shape reads either"
    assert distance(artifact, done, _X) < 0.002


def test_branches_stay_float_and_get_float(write: Any, distance: Any, operators: Any, tmp_path: Path) -> None:
    artifact = write(
        """g (float[n, 16] x) => (float[n, 16] y) {
            h = MatMul(x, W) s = ReduceSum<keepdims = 0>(x) c = Greater(s, zero)
            k = If(c) <then_branch = t () => (float[n, 16] p) { p = MatMul(h, V) },
                       else_branch = e () => (float[n, 16] q) { q = Relu(h) }>
            y = MatMul(k, V) }""",
        W=_SQUARES["W"],
        V=_SQUARES["V"],
        zero=np.array(0, np.float32),
    )
    samples = Samples.from_feeds([{"x": _floats(4, 16)} for _ in range(8)])
    done = quantize(artifact, Float16(), samples=samples, out=tmp_path / "q.onnx")
    assert distance(artifact, done, samples) < 0.002
    assert dtypes(done)["V"] == "FLOAT"


def test_a_tied_head_is_stored_once(write: Any, distance: Any, tmp_path: Path) -> None:
    table = _floats(24, 16)
    artifact = write(
        "g (int64[n] ids) => (float[n, 24] y) { e = Gather(E, ids) h = Relu(e) y = MatMul(h, T) }",
        E=table,
        T=np.ascontiguousarray(table.T),
    )
    samples = Samples.from_rows({"ids": np.arange(24)})
    for recipe in (Float16(), Float16(weights_only=True), BFloat16()):
        done = quantize(artifact, recipe, samples=samples, out=tmp_path / "q.onnx", overwrite=True)
        assert len(dtypes(done)) == 1
        assert distance(artifact, done, samples) < 0.01


def test_weights_only_computes_in_float(write: Any, operators: Any, answers: Any, tmp_path: Path) -> None:
    artifact = write(
        "g (float[n, 16] x) => (float[n, 16] y) { h = MatMul(x, W) y = MatMul(h, V) }",
        W=_SQUARES["W"].astype(np.float16).astype(np.float32),
        V=_SQUARES["V"].astype(np.float16).astype(np.float32),
    )
    done = quantize(artifact, Float16(weights_only=True), out=tmp_path / "q.onnx")
    x = {"x": _floats(4, 16)}
    np.testing.assert_array_equal(answers(done.path, x)[0], answers(artifact.path, x)[0])
    assert set(dtypes(done).values()) == {"FLOAT16"}
    assert done.lineage[-1].options["coverage"]["half_weight_share"] == 1.0


def test_bfloat16_arithmetic_is_refused_by_operator_where_there_is_only_a_cpu(write: Any, tmp_path: Path) -> None:
    artifact = write("g (float[n, 16] x) => (float[n, 16] y) { y = MatMul(x, W) }", W=_SQUARES["W"])
    with pytest.raises(QuantizationError, match="no bf16 kernel for MatMul; such a graph is for CUDA .--weights-only"):
        quantize(artifact, BFloat16(weights_only=False), out=tmp_path / "q.onnx")
    assert not (tmp_path / "q.onnx").exists()


def test_nothing_that_fits_is_said_with_reasons(write: Any, tmp_path: Path) -> None:
    artifact = write("g (float[n, 16] x) => (float[n, 16] y) { y = MatMul(x, W) }", W=_floats(16, 16) * 1e6)
    with pytest.raises(QuantizationError, match=r"no float32 product fits fp16; .*MatMul_0 \(W cannot be rounded\)"):
        quantize(artifact, Float16(), samples=_X, out=tmp_path / "q.onnx")
    with pytest.raises(UsageError, match="no node is named MatMul_9"):
        quantize(artifact, Float16(exclude=("MatMul_9",)), out=tmp_path / "q.onnx")


def test_an_excluded_node_stays_float(write: Any, tmp_path: Path) -> None:
    artifact = write(
        "g (float[n, 16] x) => (float[n, 16] y) { h = MatMul(x, W) y = MatMul(h, V) }",
        W=_SQUARES["W"],
        V=_SQUARES["V"],
    )
    done = quantize(artifact, Float16(exclude=("MatMul_0",)), samples=_X, out=tmp_path / "q.onnx")
    assert dtypes(done) == {"W": "FLOAT", "V_float16": "FLOAT16"}


@pytest.mark.parametrize("half", [FLOAT16, BFLOAT16])
def test_what_rounding_may_change(half: Any) -> None:
    fine = [_floats(8, 8), np.array([0.0, -0.0]), np.array([-np.inf, 1.0]), np.array(1e-5), np.zeros((0,))]
    for array in fine:
        rounded = half.rounded(array.astype(np.float32))
        assert rounded is not None
        np.testing.assert_allclose(rounded.astype(np.float32), array, rtol=0.01, atol=1e-6)
    for array in (np.array(np.nan), *([np.array(1e5), np.array(1e-9)] if half is FLOAT16 else [])):
        assert half.rounded(array.astype(np.float32)) is None


def test_counting_operators_of_a_half_graph(write: Callable[..., Artifact], tmp_path: Path) -> None:
    """A Cast stands behind its producer, never in a reader's way: the graph is sorted and has no second Cast."""
    artifact = write(
        """g (float[n, 16] x) => (float[n, 16] y, float[n, 16] z) {
            h = MatMul(x, W) e = CumSum(h, one) f = CumSum<reverse = 1>(h, one) y = MatMul(e, V) z = MatMul(f, V) }""",
        W=_SQUARES["W"],
        V=_SQUARES["V"],
        one=np.array(1),
    )
    done = quantize(artifact, Float16(), samples=_X, out=tmp_path / "q.onnx")
    nodes = list(modelfile.load(done.path).graph)
    assert collections.Counter(node.op_type for node in nodes)["Cast"] == 6, "x, h, e, f, y and z: once each"
    seen: set[ir.Value] = set()
    for node in nodes:
        assert all(value.producer() is None or value in seen for value in node.inputs if value is not None)
        seen |= set(node.outputs)
