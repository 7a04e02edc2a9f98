from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.errors import QuantizationError, UsageError
from edgeai.quantization import RECIPES, Int8Dynamic, quantize
from edgeai.quantization.sessions import open_session
from edgeai.samples import Samples

_RANDOM = np.random.default_rng(5)


def _floats(*shape: int) -> np.ndarray:
    return _RANDOM.standard_normal(shape).astype(np.float32)


_X = Samples.from_rows({"x": _floats(16, 16)})


def test_one_input_is_quantized_once_and_one_weight_too(
    write: Callable[..., Artifact], operators: Callable[..., Any], tmp_path: Path
) -> None:
    artifact = write(
        """g (float[n, 16] x) => (float[n, 8] y) {
            a = MatMul(x, W) b = MatMul(x, V) r = Relu(x) c = MatMul(r, W) d = Add(a, b) y = Add(c, d) }""",
        W=_floats(16, 8),
        V=_floats(16, 8),
    )
    done = quantize(artifact, Int8Dynamic(), out=tmp_path / "q.onnx")
    assert operators(done)["DynamicQuantizeLinear"] == 2, "x and r"
    assert operators(done)["MatMulInteger"] == 3
    constants = modelfile.load(done.path).graph.initializers
    assert sorted(constants) == sorted(f"{w}_{part}" for w in "VW" for part in ("quantized", "scale", "zero_point"))


def test_onnxruntime_fuses_what_is_written(write: Callable[..., Artifact], tmp_path: Path) -> None:
    import onnx
    import onnxruntime as ort

    artifact = write("g (float[n, 16] x) => (float[n, 8] y) { y = Gemm(x, W, b) }", W=_floats(16, 8), b=_floats(8))
    done = quantize(artifact, Int8Dynamic(), out=tmp_path / "q.onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(str(done.path), options, providers=["CPUExecutionProvider"])
    assert [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node] == ["DynamicQuantizeMatMul"]


def test_convolutions_stay_float_and_are_named_and_so_do_embeddings_if_asked(
    write: Callable[..., Artifact], operators: Callable[..., Any], tmp_path: Path
) -> None:
    artifact = write(
        """g (int64[n] ids) => (float[n, 1, 5] y) {
            e = Gather(E, ids) h = MatMul(e, W) u = Unsqueeze(h, one) y = Conv(u, C) }""",
        E=_floats(24, 16),
        W=_floats(16, 7),
        C=_floats(1, 1, 3),
        one=np.array([1]),
    )
    done = quantize(artifact, Int8Dynamic(embeddings=False), out=tmp_path / "q.onnx")
    assert operators(done)["Gather"] == operators(done)["Conv"] == operators(done)["MatMulInteger"] == 1
    coverage = done.lineage[-1].options["coverage"]
    assert coverage["float_names"] == ("Conv_3",)
    assert done.lineage[-1].options["left_float"] == {"ConvInteger is slower than Conv in float": ["Conv_3"]}
    assert coverage["integer_weight_share"] == pytest.approx(112 / 115)
    np.testing.assert_array_equal(
        modelfile.load(done.path).graph.initializers["E"].const_value.numpy(),
        modelfile.load(artifact.path).graph.initializers["E"].const_value.numpy(),
    )


def test_an_embedding_takes_a_quarter_of_its_size(
    write: Callable[..., Artifact], operators: Callable[..., Any], distance: Callable[..., float], tmp_path: Path
) -> None:
    artifact = write(
        "g (int64[n] ids) => (float[n, 7] y) { e = Gather(E, ids) y = MatMul(e, W) }",
        E=_floats(24, 256),
        W=_floats(256, 7),
    )
    done = quantize(artifact, Int8Dynamic(), out=tmp_path / "q.onnx")
    assert operators(done)["GatherBlockQuantized"] == 1
    table = modelfile.load(done.path).graph.initializers["E_int8"].const_value
    assert (table.numpy().dtype, table.numpy().shape) == (np.uint8, (24, 256))
    assert distance(artifact, done, Samples.from_rows({"ids": np.arange(24)})) < 0.02
    kept = quantize(artifact, Int8Dynamic(exclude=("Gather_0",)), out=tmp_path / "k.onnx")
    assert operators(kept)["Gather"] == 1


@pytest.mark.parametrize("head", ["y = MatMul(h, T)", "t = Transpose<perm = [1, 0]>(E) y = MatMul(h, t)"])
def test_an_embedding_and_its_head_share_one_table(
    head: str, write: Callable[..., Artifact], operators: Callable[..., Any], distance: Callable[..., float],
    tmp_path: Path,
) -> None:  # fmt: skip
    table = _floats(24, 96)
    weights = {"E": table} | ({"T": np.ascontiguousarray(table.T)} if "T)" in head else {})
    artifact = write(
        f"g (int64[n, 2] ids) => (float[n, 2, 24] y) {{ e = Gather(E, ids) h = Relu(e) {head} }}", **weights
    )
    done = quantize(artifact, Int8Dynamic(), out=tmp_path / "q.onnx")
    assert done.lineage[-1].options["shared"] == ["E"]
    constants = modelfile.load(done.path).graph.initializers
    large = [value.const_value for value in constants.values() if value.const_value.size >= table.size]
    assert [(tensor.dtype.name, tuple(tensor.shape.numpy())) for tensor in large] == [("INT8", (24, 96))]
    assert distance(artifact, done, Samples.from_rows({"ids": np.arange(24).reshape(12, 2)})) < 0.04
    optimized = tmp_path / "optimized.onnx"
    open_session(done.path, level="extended", optimized=optimized)
    assert "DynamicQuantizeMatMul" in [node.op_type for node in modelfile.load(optimized).graph]
    for recipe in (
        Int8Dynamic(per_channel=False),
        Int8Dynamic(weight_type="uint8"),
        Int8Dynamic(exclude=("Gather_0",)),
    ):
        apart = quantize(artifact, recipe, out=tmp_path / "apart.onnx", overwrite=True)
        assert apart.lineage[-1].options["shared"] == []
        assert operators(apart)["MatMulInteger"] == 1


_SUM = """c = Greater(s, zero) y = If(c) <then_branch = t () => (float[n, 16] p) { p = MatMul(x, W) },
          else_branch = e () => (float[n, 16] q) { r = Relu(x) q = Gemm<alpha = 0.5>(r, W, b) }>"""
_BODIES = {
    "If": f"s = ReduceSum<keepdims = 0>(x) {_SUM}",
    "Loop": """y = Loop(trips, true, x) <body = t (int64 i, bool go, float[n, 16] v)
        => (bool on, float[n, 16] w) { on = Identity(go) m = MatMul(v, W) a = MatMul(x, W) w = Add(m, a) }>""",
    "Scan": """last, y = Scan(b, x) <num_scan_inputs = 1, body = t (float[16] v, float[16] row)
        => (float[16] w, float[16] z) { r2 = Unsqueeze(row, axis) m = MatMul(r2, W) z = Squeeze(m, axis)
        w = Add(v, z) }>""",
    "If inside Loop": f"""y = Loop(trips, true, x) <body = t (int64 i, bool go, float[n, 16] v)
        => (bool on, float[n, 16] w) {{ on = Identity(go) s = ReduceSum<keepdims = 0>(v)
        {_SUM.replace("y =", "w =")} }}>""",
}


@pytest.mark.parametrize("kind", _BODIES)
@pytest.mark.parametrize("name", ["int8-dynamic", "int8-weight", "int4-weight"])
def test_weights_in_bodies_become_integers(
    kind: str, name: str, write: Callable[..., Artifact], operators: Callable[..., Any],
    distance: Callable[..., float], tmp_path: Path,
) -> None:  # fmt: skip
    body = _BODIES[kind]
    used = {
        "W": _floats(16, 16) / 4, "b": _floats(16), "zero": np.array(0, np.float32), "axis": np.array([0]),
        "trips": np.array(3), "true": np.array(True),
    }  # fmt: skip
    around = {key: array for key, array in used.items() if re.search(rf"\b{key}\b", body)}
    artifact = write(f"g (float[n, 16] x) => (float[n, 16] y) {{ {body} }}", **around)
    done = quantize(artifact, RECIPES[name](), out=tmp_path / "q.onnx")
    products = {"If": 2, "Loop": 2, "Scan": 1, "If inside Loop": 2}[kind]
    assert operators(done)["MatMulInteger" if name == "int8-dynamic" else "MatMulNBits"] == products
    assert operators(done)["MatMul"] == operators(done)["Gemm"] == 0
    coverage = done.lineage[-1].options["coverage"]
    assert (coverage["integer_nodes"], coverage["float_names"]) == (products, ())
    assert distance(artifact, done, Samples.from_feeds([{"x": _floats(4, 16)} for _ in range(4)])) < 0.3


def test_channels_of_their_own_scale_are_closer(
    write: Callable[..., Artifact], distance: Callable[..., float], tmp_path: Path
) -> None:
    columns = np.array([1, 100, 0.01, 1, 1, 1, 1, 1], np.float32)
    artifact = write(
        "g (float[n, 16] x) => (float[n, 8] y) { h = MatMul(x, W) y = Div(h, c) }",
        W=_floats(16, 8) * columns,
        c=columns,
    )

    def error(recipe: Int8Dynamic) -> float:
        return distance(artifact, quantize(artifact, recipe, out=tmp_path / "q.onnx", overwrite=True), _X)

    for weight_type in ("int8", "uint8"):
        by_channel, together = (error(Int8Dynamic(per_channel=flag, weight_type=weight_type)) for flag in (True, False))
        assert by_channel < 0.03 < 0.2 < together


def test_a_weight_on_the_left_stays_float_and_the_lineage_says_why(
    write: Callable[..., Artifact], tmp_path: Path
) -> None:
    body = (
        "g (float[16, n] x) => (float[8, n] y) { t = Transpose(x) h = MatMul(t, W) u = Transpose(h) y = MatMul(V, u) }"
    )
    artifact = write(body, W=_floats(16, 16), V=_floats(8, 16))
    ((reason, names),) = quantize(artifact, Int8Dynamic(), out=tmp_path / "q").lineage[-1].options["left_float"].items()
    assert "not one matrix on the right" in reason and names == ["MatMul_3"]


def test_excluded_nodes_stay_float(
    write: Callable[..., Artifact], operators: Callable[..., Any], tmp_path: Path
) -> None:
    artifact = write(
        "g (float[n, 16] x) => (float[n, 8] y) { h = MatMul(x, W) y = MatMul(h, V) }",
        W=_floats(16, 16),
        V=_floats(16, 8),
    )
    done = quantize(artifact, Int8Dynamic(exclude=("MatMul_0",)), out=tmp_path / "q.onnx")
    assert operators(done)["MatMul"] == 1
    assert done.lineage[-1].options["coverage"]["float_names"] == ("MatMul_0",)
    assert done.lineage[-1].options["left_float"] == {"excluded": ["MatMul_0"]}
    assert done.lineage[-1].options["exclude"] == ("MatMul_0",)
    with pytest.raises(UsageError, match="no node is named MatMul_7"):
        quantize(artifact, Int8Dynamic(exclude=("MatMul_7",)), out=tmp_path / "r.onnx")


@pytest.mark.parametrize(
    ("body", "weights", "reason"),
    [
        ("y = Conv(u, C)", {"C": _floats(1, 1, 3)}, r"it has Conv with the float weight C \(1, 1, 3\)"),
        ("y = MatMul(x, S)", {"S": _floats(2, 16, 8)}, r"it has MatMul with the float weight S \(2, 16, 8\)"),
        ("t = Transpose(x) y = MatMul(x, t)", {}, "it has MatMul with no constant weight .optimize it first"),
        ("y = Gemm<transA = 1>(x, W)", {"W": _floats(16, 8)}, "it has Gemm with the float weight W"),
        ("y = Relu(x)", {}, "no MatMul, Gemm or LSTM has a constant float32 weight$"),
    ],
)
def test_nothing_to_quantize_is_said_with_what_there_is(
    write: Callable[..., Artifact], tmp_path: Path, body: str, weights: dict[str, Any], reason: str
) -> None:
    given = "float[n, 1, 16] u" if "Conv" in body else "float[16, 16] x"
    rank = 3 if weights.keys() & {"C", "S"} else 2
    artifact = write(f"g ({given}) => (float[{', '.join('abc'[:rank])}] y) {{ {body} }}", **weights)
    with pytest.raises(QuantizationError, match=reason):
        quantize(artifact, Int8Dynamic(), out=tmp_path / "q.onnx")
    assert not (tmp_path / "q.onnx").exists()


def test_a_weight_that_is_not_finite_is_named(write: Callable[..., Artifact], tmp_path: Path) -> None:
    weight = _floats(16, 8)
    weight[3, 3] = np.inf
    artifact = write("g (float[n, 16] x) => (float[n, 8] y) { y = MatMul(x, W) }", W=weight)
    with pytest.raises(QuantizationError, match="weight W holds NaN or infinity"):
        quantize(artifact, Int8Dynamic(), out=tmp_path / "q.onnx")
