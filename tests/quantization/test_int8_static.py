from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.errors import InputError, QuantizationError, UsageError
from edgeai.quantization import Int8Static, quantize
from edgeai.samples import Samples

_RANDOM = np.random.default_rng(9)


def _floats(*shape: int) -> np.ndarray:
    return _RANDOM.standard_normal(shape).astype(np.float32)


_X = Samples.from_rows({"x": _floats(16, 16)})
_LINEAR = "g (float[n, 16] x) => (float[n, 8] y) { y = MatMul(x, W) }"


def _constants(artifact: Artifact) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in modelfile.load(artifact.path).graph.initializers.items()}


@pytest.mark.parametrize("activation_type", ["uint8", "int8"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_scales_cover_exactly_what_calibration_saw(
    write: Callable[..., Artifact], tmp_path: Path, activation_type: Any, symmetric: bool
) -> None:
    artifact = write(_LINEAR, W=_floats(16, 8))
    samples = Samples.from_rows({"x": np.linspace(-1, 3, 160, dtype=np.float32).reshape(10, 16)})
    recipe = Int8Static(activation_type=activation_type, symmetric_activations=symmetric)
    constants = _constants(quantize(artifact, recipe, samples=samples, out=tmp_path / "q.onnx"))
    smallest = 0 if activation_type == "uint8" else -128
    if symmetric:
        # From -3 to 3 with zero in the middle. ONNX Runtime takes -127..127 of int8 and 0..255 of uint8.
        steps, zero_point = (255, 128) if activation_type == "uint8" else (254, 0)
        assert constants["x_scale"] == pytest.approx(6 / steps)
        assert constants["x_zero_point"] == zero_point
    else:
        assert constants["x_scale"] == pytest.approx(4 / 255)
        assert constants["x_zero_point"] == smallest + 64
    assert constants["x_zero_point"].dtype == activation_type


def test_weights_have_one_scale_a_channel_or_one_in_all(write: Callable[..., Artifact], tmp_path: Path) -> None:
    weight = _floats(16, 8)
    artifact = write(_LINEAR, W=weight)
    by_channel = _constants(quantize(artifact, Int8Static(reduce_range=False), samples=_X, out=tmp_path / "a.onnx"))
    np.testing.assert_allclose(by_channel["W_scale"], 2 * np.abs(weight).max(0) / 254, rtol=1e-2)
    together = _constants(quantize(artifact, Int8Static(per_channel=False), samples=_X, out=tmp_path / "b.onnx"))
    assert together["W_scale"].size == 1


def test_reduce_range_leaves_one_bit_unused(write: Callable[..., Artifact], tmp_path: Path) -> None:
    artifact = write(_LINEAR, W=_floats(16, 8))
    done = quantize(artifact, Int8Static(reduce_range=True), samples=_X, out=tmp_path / "q.onnx")
    assert 60 <= np.abs(_constants(done)["W_quantized"].astype(int)).max() <= 64, "2 * 255 * 64 fits 16 bits"
    assert done.lineage[-1].options["reduce_range"] is True


def test_a_mask_of_minus_infinity_stays_out_of_the_ranges(write: Callable[..., Artifact], tmp_path: Path) -> None:
    artifact = write(
        """g (float[b, n, 16] x, float[n, n] mask) => (float[b, n, 8] y) {
            t = MatMul(x, W) u = Transpose<perm = [0, 2, 1]>(x) s = MatMul(t, u)
            m = Add(s, mask) p = Softmax(m) h = MatMul(p, x) y = MatMul(h, V) }""",
        W=_floats(16, 16),
        V=_floats(16, 8),
    )
    mask = np.triu(np.full((4, 4), -np.inf, np.float32), 1)
    samples = Samples.from_feeds([{"x": _floats(2, 4, 16), "mask": mask} for _ in range(4)])
    done = quantize(artifact, Int8Static(), samples=samples, out=tmp_path / "q.onnx")
    assert done.lineage[-1].options["kept_float"] == ["Add_3"]
    assert done.lineage[-1].options["coverage"]["integer_nodes"] == 4


def test_attention_over_a_single_position_is_right(
    write: Callable[..., Artifact], distance: Callable[..., float], operators: Callable[..., Any], tmp_path: Path
) -> None:
    """ONNX Runtime's QLinearSoftmax answers 0 for a row of one element; the scores must not be rounded before it."""
    artifact = write(
        """g (float[b, s, 16] x) => (float[b, s, 16] y) {
            q = MatMul(x, W) u = Transpose<perm = [0, 2, 1]>(x) s0 = MatMul(q, u) p = Softmax(s0) y = MatMul(p, x) }""",
        W=_floats(16, 16) / 16,
    )
    samples = Samples.from_feeds([{"x": _floats(2, length, 16)} for length in (1, 2, 5)])
    done = quantize(artifact, Int8Static(), samples=samples, out=tmp_path / "q.onnx")
    assert distance(artifact, done, samples) < 0.05
    assert done.lineage[-1].options["coverage"]["integer_nodes"] == 3
    assert operators(done)["Softmax"] == 1


def test_excluded_nodes_stay_float(
    write: Callable[..., Artifact], operators: Callable[..., Any], tmp_path: Path
) -> None:
    body = "g (float[n, 16] x) => (float[n, 8] y) { h = MatMul(x, W) r = Exp(h) y = MatMul(r, V) }"
    artifact = write(body, W=_floats(16, 16), V=_floats(16, 8))
    done = quantize(artifact, Int8Static(exclude=("MatMul_0",)), samples=_X, out=tmp_path / "q.onnx")
    assert done.lineage[-1].options["coverage"]["float_names"] == ("MatMul_0",)
    with pytest.raises(UsageError, match="exclude: no node is named conv1"):
        quantize(artifact, Int8Static(exclude=("conv1",)), samples=_X, out=tmp_path / "r.onnx")


def test_what_is_not_float32_is_left_as_it_is(
    write: Callable[..., Artifact], operators: Callable[..., Any], tmp_path: Path
) -> None:
    artifact = write(
        """g (float[n, 16] x, int64[2] shape) => (float[a, b] y, double[n, 16] z) {
            h = MatMul(x, W) s = Mul(shape, ones) y = Reshape(h, s) d = Cast<to = 11>(x) z = Add(d, d) }""",
        W=_floats(16, 8),
        ones=np.array([1, 1]),
    )
    samples = Samples.from_feeds([{"x": _floats(4, 16), "shape": np.array([8, 4])}])
    done = quantize(artifact, Int8Static(), samples=samples, out=tmp_path / "q.onnx")
    assert operators(done)["Mul"] == operators(done)["Add"] == 1
    assert done.lineage[-1].options["coverage"]["integer_nodes"] == 1


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (np.nan, "tensor x is NaN in feed 1, so it has no range"),
        (np.inf, r"nothing is left to quantize; .* beyond 1e\+30 stand in x \(16\), e \(16\), h \(8\)"),
        (1e30, r"nothing is left to quantize; .* stand in x \(16\), e \(16\), h \(8\) \(the samples or the model"),
    ],
)
def test_samples_that_are_not_finite_are_refused(
    write: Callable[..., Artifact], tmp_path: Path, sample: float, reason: str
) -> None:
    artifact = write(
        "g (float[n, 16] x) => (float[n, 8] y) { e = Mul(x, big) h = MatMul(e, W) y = Tanh(h) }",
        W=np.abs(_floats(16, 8)),
        big=np.array([1e20], np.float32),
    )
    rows = np.ones((2, 16), np.float32)
    rows[1] = sample
    with pytest.raises(QuantizationError, match=reason):
        quantize(artifact, Int8Static(), samples=Samples.from_rows({"x": rows}), out=tmp_path / "q.onnx")
    assert not (tmp_path / "q.onnx").exists()


@pytest.mark.parametrize("mark", [-np.inf, np.finfo(np.float32).min, -1e30])
def test_a_tensor_with_marks_stays_float_and_is_said(
    write: Callable[..., Artifact], distance: Callable[..., float], tmp_path: Path, mark: float
) -> None:
    """Clipped into a range, a mark would hide nothing any more: here every second score would come back."""
    artifact = write(
        """g (float[n, 16] x, float[n, 8] mask) => (float[n, 8] y, float[n, 8] z) {
            h = MatMul(x, W) m = Add(h, mask) y = Exp(m) z = Relu(h) }""",
        W=_floats(16, 8) / 8,
    )
    mask = np.where(np.arange(8) % 2 == 0, 0.0, mark).astype(np.float32)
    samples = Samples.from_rows({"x": _floats(12, 16), "mask": np.tile(mask, (12, 1))})
    done = quantize(artifact, Int8Static(), samples=samples, out=tmp_path / "q.onnx")
    assert done.lineage[-1].options["marks"] == {"mask": 48, "m": 48}
    assert done.lineage[-1].options["coverage"]["integer_nodes"] == 1
    assert distance(artifact, done, samples) < 0.05


def test_a_weight_that_is_not_finite_is_named_unless_it_is_excluded(
    write: Callable[..., Artifact], tmp_path: Path
) -> None:
    weight = _floats(16, 8)
    weight[0, 0] = np.nan
    artifact = write(_LINEAR, W=weight)
    with pytest.raises(QuantizationError, match=r"weight W holds NaN or infinity \(keep .* exclude=\('MatMul_0',\)"):
        quantize(artifact, Int8Static(), samples=_X, out=tmp_path / "q.onnx")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"activation_type": "int8", "weight_type": "uint8"}, "int8 activations with uint8 weights have no kernels"),
        ({"observer": "guess"}, "observer 'guess' is unknown .minmax, moving-average, percentile, entropy, mse"),
        ({"percentile": 0.5}, "percentile 0.5 is not in 50..100"),
        ({"smooth": 1.5}, "smooth 1.5 is not in 0..1"),
    ],
)
def test_options_that_cannot_work_are_refused_at_once(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Int8Static(**options)


def test_samples_are_needed_and_must_fit(write: Callable[..., Artifact], tmp_path: Path) -> None:
    artifact = write(_LINEAR, W=_floats(16, 8))
    with pytest.raises(QuantizationError, match="int8-static needs calibration samples"):
        quantize(artifact, Int8Static(), out=tmp_path / "q.onnx")
    with pytest.raises(InputError, match="missing x"):
        quantize(artifact, Int8Static(), samples=Samples.from_rows({"z": _floats(2, 16)}), out=tmp_path / "q.onnx")


def test_a_name_that_cannot_be_freed_is_a_refusal_and_no_crash(write: Callable[..., Artifact], tmp_path: Path) -> None:
    artifact = write("g (float[n, 16] x) => (float[n, 8] x_scale) { x_scale = MatMul(x, W) }", W=_floats(16, 8))
    with pytest.raises(QuantizationError, match="quantizer cannot handle this graph|is not valid|does not open"):
        quantize(artifact, Int8Static(), samples=_X, out=tmp_path / "q.onnx")


def test_a_convolution_that_nothing_runs_in_integers_is_refused_by_count(
    write: Callable[..., Artifact], tmp_path: Path
) -> None:
    artifact = write(
        """g (float[n, 16] x) => (float[n, 4] y) {
            h = MatMul(x, W) s = ReduceSum<keepdims = 0>(h) c = Greater(s, zero)
            y = If(c) <then_branch = t () => (float[n, 4] p) { p = MatMul(h, V) },
                       else_branch = e () => (float[n, 4] q) { q = MatMul(h, U) }> }""",
        W=_floats(16, 8),
        V=_floats(8, 4),
        U=_floats(8, 4),
        zero=np.array(0, np.float32),
    )
    with pytest.raises(QuantizationError, match="nothing became integer; .* float at MatMul_0, MatMul_4, MatMul_5"):
        quantize(artifact, Int8Static(), samples=_X, out=tmp_path / "q.onnx")
    assert list(tmp_path.glob("q.onnx*")) == []


@pytest.mark.parametrize("observer", ["minmax", "moving-average", "percentile", "entropy", "mse"])
def test_every_observer_answers_well_and_all_but_minmax_survive_an_outlier(
    write: Callable[..., Artifact], distance: Callable[..., float], tmp_path: Path, observer: Any
) -> None:
    artifact = write(_LINEAR, W=_floats(16, 8))
    feeds = [{"x": _floats(1000, 16)} for _ in range(10)]
    usual = Samples.from_rows({"x": _floats(50, 16).clip(-2.5, 2.5)})
    recipe = Int8Static(observer=observer, percentile=99.9)
    plain = quantize(artifact, recipe, samples=Samples.from_feeds(feeds), out=tmp_path / "plain.onnx")
    assert distance(artifact, plain, usual) < 0.04
    feeds[0]["x"][3, 5] = 120.0
    hit = quantize(artifact, recipe, samples=Samples.from_feeds(feeds), out=tmp_path / "hit.onnx")
    if observer == "minmax":
        assert distance(artifact, hit, usual) > 0.1
    elif observer in ("percentile", "entropy"):  # the others weigh one value of 120 against all small ones
        assert distance(artifact, hit, usual) < 0.06


def test_recipes_on_the_same_model_and_samples_share_one_calibration(
    write: Callable[..., Artifact], tmp_path: Path
) -> None:
    artifact, cache = write(_LINEAR, W=_floats(16, 8)), tmp_path / "cache"
    kept = []
    for index, options in enumerate(
        [{}, {"observer": "entropy"}, {"bias_correction": True}, {"per_channel": False, "activation_type": "int8"}]
    ):
        recipe: Any = Int8Static(cache=str(cache), **options)
        shared = quantize(artifact, recipe, samples=_X, out=tmp_path / f"{index}.onnx")
        kept.append([(file.name, file.stat().st_mtime_ns) for file in cache.iterdir()])
        alone = quantize(artifact, Int8Static(**options), samples=_X, out=tmp_path / "alone.onnx", overwrite=True)
        assert shared.path.read_bytes() == alone.path.read_bytes(), "where the cache lies is not in the model"
    assert len(kept[0]) == 1 and kept.count(kept[0]) == len(kept)


def test_the_root_logger_keeps_its_handlers(write: Callable[..., Artifact], tmp_path: Path) -> None:
    before = list(logging.root.handlers)
    quantize(write(_LINEAR, W=_floats(16, 8)), Int8Static(), samples=_X, out=tmp_path / "q.onnx")
    assert logging.root.handlers == before


def test_weights_in_a_file_of_their_own(write: Callable[..., Artifact], distance: Any, tmp_path: Path) -> None:
    artifact = write(_LINEAR, W=_floats(16, 8))
    onnx.save(onnx.load(artifact.path), artifact.path, save_as_external_data=True, location="w", size_threshold=0)
    done = quantize(artifact, Int8Static(), samples=_X, out=tmp_path / "q.onnx")
    assert distance(artifact, done, _X) < 0.05


def test_a_product_that_sums_nothing_is_zeros(write: Callable[..., Artifact], answers: Any, tmp_path: Path) -> None:
    """ONNX Runtime's integer kernel leaves such an output as it was in memory."""
    artifact = write(
        """g (float[n, 16] x) => (float[n, 8] y) {
            h = MatMul(x, W) none = MatMul(h, A) t = Transpose<perm = [1, 0]>(B) z = MatMul(none, t) y = Add(z, b) }""",
        W=_floats(16, 16),
        A=_floats(16, 0),
        B=_floats(8, 0),
        b=_floats(8),
    )
    samples = Samples.from_rows({"x": _floats(4, 16)})
    done = quantize(artifact, Int8Static(), samples=samples, out=tmp_path / "q.onnx")
    feed = {"x": _floats(5, 16)}
    np.testing.assert_allclose(answers(done.path, feed)[0], answers(artifact.path, feed)[0], atol=0.05)


def test_the_scope_of_products_leaves_what_is_between_them_in_float(
    write: Callable[..., Artifact], tmp_path: Path
) -> None:
    artifact = write(
        "g (float[n, 16] x) => (float[n, 8] y) { h = MatMul(x, W) b = Add(h, B) r = Relu(b) y = MatMul(r, V) }",
        W=_floats(16, 16), B=_floats(16), V=_floats(16, 8),
    )  # fmt: skip
    recipe = Int8Static(scope="products", embeddings=False)
    done = quantize(artifact, recipe, samples=_X, out=tmp_path / "q.onnx")
    read = {
        node.inputs[0].name if node.inputs[0] is not None else None
        for node in modelfile.load(done.path).graph
        if node.op_type == "QuantizeLinear"
    }
    assert read == {"x", "r"}
    assert done.lineage[-1].options["scope"] == "products"
    with pytest.raises(UsageError, match="scope 'weights' is unknown .all, products"):
        Int8Static(scope="weights")  # type: ignore[arg-type]
