"""Every rule of the linter on a file that was really made: by edgeai's recipes, by ONNX Runtime's own, or by hand."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

from edgeai.errors import ModelFormatError, UsageError
from edgeai.linting import TARGETS, LintReport, lint
from edgeai.machine import Machine, machine
from edgeai.modelfile import open_artifact
from edgeai.quantization import Int8Dynamic, Int8Static, quantize
from edgeai.samples import Samples
from edgeai.spec import Array

_RANDOM = np.random.default_rng(3)
_AVX2 = dataclasses.replace(machine(), architecture="x86_64", features=("avx", "avx2", "fma"))
_VNNI = dataclasses.replace(machine(), architecture="x86_64", features=("avx2", "avx512_vnni", "avx512f"))


def _floats(*shape: int) -> Array:
    return _RANDOM.standard_normal(shape).astype(np.float32)


_MLP = "g (float[n, 16] x) => (float[n, 4] y) { h = MatMul(x, W) r = Relu(h) y = MatMul(r, V) }"
_CONV = "g (float[n, 3, 8, 8] x) => (float[n, 4, 6, 6] y) { h = Conv(x, K, b) y = Relu(h) }"
# Keys and queries are products that are multiplied with each other: their int8 pairs find no kernel on x86.
_ATTENTION = """g (float[n, s, 16] x) => (float[n, s, 16] y) {
    q = MatMul(x, Q) k = MatMul(x, P) t = Transpose<perm = [0, 2, 1]>(k) a = MatMul(q, t)
    p = Softmax<axis = -1>(a) z = MatMul(p, x) y = MatMul(z, Q) }"""
_WEIGHTS = {
    "W": _floats(16, 32), "V": _floats(32, 4), "K": _floats(4, 3, 3, 3), "b": _floats(4),
    "Q": _floats(16, 16), "P": _floats(16, 16),
}  # fmt: skip
_SHAPES = {_MLP: (8, 16), _CONV: (2, 3, 8, 8), _ATTENTION: (2, 5, 16)}


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, *feeds: dict[str, Array]) -> None:
        self._feeds: Iterator[dict[str, Array]] = iter(feeds)

    def get_next(self) -> dict[str, Array] | None:
        return next(self._feeds, None)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(body: str, *, opset: int = 21, **weights: Array) -> Path:
        model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}]> {body}')
        used = {name for node in model.graph.node for name in node.input}
        arrays = {name: array for name, array in (_WEIGHTS | weights).items() if name in used}
        model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
        onnx.save(model, tmp_path / "float.onnx")
        return tmp_path / "float.onnx"

    return write


def _static(path: Path, body: str, activation: QuantType, weight: QuantType, **options: Any) -> Path:
    out = path.with_name("static.onnx")
    reader = _Reader(*({"x": _floats(*_SHAPES[body])} for _ in range(3)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_static(str(path), str(out), reader, activation_type=activation, weight_type=weight, **options)
    return out


def _dynamic(path: Path, weight: QuantType, **options: Any) -> Path:
    out = path.with_name("dynamic.onnx")
    quantize_dynamic(str(path), str(out), weight_type=weight, **options)
    return out


def _found(report: LintReport) -> set[tuple[str, str, str]]:
    return {(row.op_type, row.runs, row.rule) for row in report.rows}


_U8, _S8, _U16 = QuantType.QUInt8, QuantType.QInt8, QuantType.QUInt16


def test_a_float_model_runs_in_float(write: Callable[..., Path]) -> None:
    report = lint(write(_MLP))
    assert _found(report) == {("MatMul", "float", "not-quantized")}
    (row,) = report.rows
    assert (row.count, row.weights) == (2, 16 * 32 + 32 * 4)
    assert (report.integer_share, report.float_share) == (0.0, 1.0)
    assert report.basis.startswith("the graph that ONNX Runtime")


@pytest.mark.parametrize("recipe", [Int8Dynamic(), Int8Static()], ids=lambda recipe: recipe.name)
def test_edgeais_recipes_run_as_integers(write: Callable[..., Path], tmp_path: Path, recipe: Any) -> None:
    samples = Samples.from_rows({"x": _floats(24, 16)})
    done = quantize(open_artifact(write(_MLP)), recipe, samples=samples, out=tmp_path / "q.onnx")
    report = lint(done.path)
    assert report.integer_share == 1.0
    assert {row.rule for row in report.rows} == {"integer"}
    assert not [caution for caution in report.cautions if caution.rule == "saturation"], "the recipe leaves a bit free"


def test_what_the_recipe_left_out_is_named(write: Callable[..., Path]) -> None:
    named = _MLP.replace("h = MatMul", "[first] h = MatMul")
    report = lint(_dynamic(write(named), _U8, nodes_to_exclude=["first"]))
    assert _found(report) == {
        ("MatMul", "float", "left-out"),
        ("DynamicQuantizeMatMul", "integer", "integer"),
    }
    assert next(row.nodes for row in report.rows if row.runs == "float") == ("first",)
    assert 0 < report.integer_share < 1


@pytest.mark.parametrize(("here", "cautions"), [(_AVX2, ["saturation"]), (_VNNI, [])], ids=["avx2", "vnni"])
@pytest.mark.parametrize("dynamic", [True, False])
def test_saturation_depends_on_the_cpu(
    write: Callable[..., Path], here: Machine, cautions: list[str], dynamic: bool
) -> None:
    path = write(_MLP)
    done = _dynamic(path, _S8) if dynamic else _static(path, _MLP, _U8, _S8)
    report = lint(done, on=here)
    assert report.integer_share == 1.0
    assert [caution.rule for caution in report.cautions] == cautions
    for caution in report.cautions:
        assert "reduce_range" in caution.text and "x64quantprecision" in caution.text
    reduced = _static(path, _MLP, _U8, _S8, reduce_range=True)
    assert not lint(reduced, on=here).cautions, "7-bit weights do not reach the clamp"


def test_a_lineage_that_shows_that_the_sums_fit_is_said_instead(write: Callable[..., Path], tmp_path: Path) -> None:
    large = np.abs(_floats(16, 32)) + 3  # every pair of products needs a seventeenth bit, where both inputs are large
    body = "g (float[n, 16] x) => (float[n, 32] y) { y = MatMul(x, W) }"
    loud = np.abs(_floats(24, 16)) + 3
    found = {}
    for name, rows, reduce_range in (
        ("clamped", loud, False),
        ("reduced", loud, True),
        ("measured", loud * np.where(np.arange(16) % 2, 0.001, 1).astype(np.float32), False),
    ):
        recipe = Int8Static(reduce_range=reduce_range)
        samples = Samples.from_rows({"x": rows})
        made = quantize(open_artifact(write(body, W=large)), recipe, samples=samples, out=tmp_path / f"{name}.onnx")
        report = lint(made.path, on=_AVX2)
        found[name] = ([caution.rule for caution in report.cautions], report.notes)
        assert lint(made.path, on=_VNNI).notes == (), "this CPU never clamps"
    assert found["clamped"] == (["saturation"], ())
    (cautions, (note,)) = found["reduced"]
    assert not cautions and "left one bit of the weights unused (reduce_range)" in note
    (cautions, (note,)) = found["measured"]
    assert not cautions and "of the sums that calibration saw, none leaves 16 bits" in note


def test_signed_activations_stay_in_float_on_x86(write: Callable[..., Path]) -> None:
    path = write(_ATTENTION)
    report = lint(_static(path, _ATTENTION, _S8, _S8), on=_VNNI)
    assert ("MatMul", "float", "signed-activation") in _found(report)
    assert lint(_static(path, _ATTENTION, _U8, _S8), on=_VNNI).integer_share == 1.0


def test_16_bit_activations_stay_in_float(write: Callable[..., Path]) -> None:
    report = lint(_static(write(_MLP), _MLP, _U16, _S8))
    assert _found(report) == {("MatMul", "float", "16-bit-qdq")}


def test_a_convolution_whose_output_is_not_quantized_stays_in_float(write: Callable[..., Path]) -> None:
    options = {"extra_options": {"OpTypesToExcludeOutputQuantization": ["Conv"]}, "op_types_to_quantize": ["Conv"]}
    report = lint(_static(write(_CONV), _CONV, _U8, _S8, **options))
    assert {(row.runs, row.rule) for row in report.rows} == {("float", "float-output")}
    assert lint(_static(write(_CONV), _CONV, _U8, _S8)).integer_share == 1.0


def test_a_dynamic_convolution_is_integer_and_slow(write: Callable[..., Path]) -> None:
    report = lint(_dynamic(write(_CONV), _U8, op_types_to_quantize=["Conv"]))
    assert _found(report) == {("ConvInteger", "integer", "integer")}
    assert [caution.rule for caution in report.cautions] == ["slow-convolution"]


def test_a_weight_behind_a_transpose_is_named(write: Callable[..., Path]) -> None:
    path = write("g (float[n, 16] x) => (float[n, 32] y) { t = Transpose(Wt) y = MatMul(x, t) }", Wt=_floats(32, 16))
    assert _found(lint(path)) == {("MatMul", "float", "behind-transpose")}


def test_half_precision_is_computed_as_float32_on_the_cpu(write: Callable[..., Path]) -> None:
    path = write("g (float16[n, 16] x) => (float16[n, 32] y) { y = MatMul(x, H) }", H=_floats(16, 32).astype("float16"))
    assert _found(lint(path)) == {("MatMul", "float", "half-on-cpu")}
    for target in ("cuda", "tensorrt", "openvino"):
        assert _found(lint(path, target=target)) == {("MatMul", "float", "half")}


_NBITS = """g (float[n, 32] x) => (float[n, 8] y) {
    y = com.microsoft.MatMulNBits<K = 32, N = 8, bits = 4, block_size = 32, accuracy_level = LEVEL>(x, B, S) }"""


@pytest.mark.parametrize(("level", "runs", "rule"), [(0, "float", "float-products"), (4, "integer", "integer")])
def test_packed_weights_are_multiplied_as_their_accuracy_level_says(
    tmp_path: Path, level: int, runs: str, rule: str
) -> None:
    text = _NBITS.replace("LEVEL", str(level))
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]> {text}')
    weights = {"B": np.full((8, 1, 16), 0x79, np.uint8), "S": _floats(8)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.save(model, tmp_path / "nbits.onnx")
    assert _found(lint(tmp_path / "nbits.onnx")) == {("MatMulNBits", runs, rule)}
    for target in ("cuda", "openvino"):
        assert _found(lint(tmp_path / "nbits.onnx", target=target)) == {("MatMulNBits", "float", "packed-weights")}


def test_products_of_two_activations_have_no_weights(write: Callable[..., Path]) -> None:
    report = lint(write(_ATTENTION))
    found = [(row.count, row.weights) for row in report.rows if row.rule == "no-weights"]
    assert sum(count for count, _ in found) == 2
    assert not any(weights for _, weights in found)


def test_weights_alone_are_multiplied_in_float(write: Callable[..., Path]) -> None:
    integers = (_floats(3, 3, 3, 3) * 20).astype(np.int8)
    body = """g (float[n, 3, 8, 8] x) => (float[n, 3, 6, 6] y) {
        w = DequantizeLinear<axis = 0>(Wq, s) y = Conv(x, w) }"""
    path = write(body, Wq=integers, s=np.full(3, 0.05, np.float32))
    for target in TARGETS:
        assert _found(lint(path, target=target)) == {("Conv", "float", "weight-only")}


def test_tensorrt_takes_symmetric_pairs_without_an_int32_bias(write: Callable[..., Path]) -> None:
    asymmetric = _static(write(_MLP), _MLP, _U8, _S8)
    assert _found(lint(asymmetric, target="tensorrt")) == {("MatMul", "refused", "zero-point")}
    symmetric = {"ActivationSymmetric": True, "WeightSymmetric": True}
    good = _static(write(_MLP), _MLP, _S8, _S8, extra_options=symmetric)
    report = lint(good, target="tensorrt")
    assert _found(report) == {("MatMul", "integer", "qdq")}
    assert (report.integer_share, report.basis) == (1.0, "the file's own graph, by rule, not measured")
    biased = _static(write(_CONV), _CONV, _S8, _S8, extra_options=symmetric)
    assert _found(lint(biased, target="tensorrt")) == {("Conv", "refused", "int32-bias")}
    free = _static(write(_CONV), _CONV, _S8, _S8, extra_options=symmetric | {"QuantizeBias": False})
    assert _found(lint(free, target="tensorrt")) == {("Conv", "integer", "qdq")}
    assert _found(lint(write(_MLP), target="tensorrt")) == {("MatMul", "float", "strong-typing")}


@pytest.mark.parametrize(
    ("target", "qdq", "dynamic", "plain"),
    [
        ("cuda", ("refused", "qdq"), ("refused", "integer-operator"), ("float", "full-float")),
        ("openvino", ("integer", "qdq"), ("refused", "integer-operator"), ("float", "full-float")),
        ("tensorrt", ("refused", "zero-point"), ("refused", "integer-operator"), ("float", "strong-typing")),
    ],
)
def test_each_device_has_its_own_word_on_the_same_files(
    write: Callable[..., Path], target: str, qdq: Any, dynamic: Any, plain: Any
) -> None:
    path = write(_MLP)
    for file, wanted in ((_static(path, _MLP, _U8, _S8), qdq), (_dynamic(path, _S8), dynamic), (path, plain)):
        assert {(row.runs, row.rule) for row in lint(file, target=target).rows} == {wanted}


def test_every_rule_has_a_reason_and_a_source() -> None:
    for target in TARGETS.values():
        names = [rule.name for rule in target.rules]
        assert len(names) == len(set(names))
        assert all(rule.reason and rule.source for rule in target.rules)
        assert all(warning.text and warning.source for warning in target.warnings)


def test_what_cannot_be_linted_is_refused(write: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no target 'tpu' .one of cpu, cuda"):
        lint(write(_MLP), target="tpu")
    with pytest.raises(ModelFormatError, match="no such file"):
        lint(tmp_path / "none.onnx")
