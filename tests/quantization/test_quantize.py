"""The verb: what it refuses, and that nothing is written when it does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.errors import ExistsError, QuantizationError
from edgeai.quantization import RECIPES, Applied, Int8Dynamic, Setting, quantize
from edgeai.samples import Samples

_W = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)
_LINEAR = "g (float[n, 16] x) => (float[n, 8] y) { y = MatMul(x, W) }"


@dataclasses.dataclass(frozen=True)
class Broken:
    """A recipe that does one thing to the model."""

    name: ClassVar[str] = "broken"
    minimum_opset: ClassVar[int] = 1
    needs_samples: ClassVar[bool] = False

    change: Callable[[ir.Model], None]

    def apply(self, model: ir.Model, setting: Setting) -> Applied:
        self.change(model)
        return Applied(model, {})


def _last(model: ir.Model) -> ir.Node:
    return list(model.graph)[-1]


def _no_such_operator(model: ir.Model) -> None:
    _last(model).op_type = "NoSuchOperator"


def _not_finite(model: ir.Model) -> None:
    model.graph.initializers["W"].const_value = ir.tensor(np.full_like(_W, np.nan))


def _other_shape(model: ir.Model) -> None:
    weight = model.graph.initializers["W"]
    weight.const_value, weight.shape = ir.tensor(_W[:, :4].copy()), ir.Shape([16, 4])
    model.graph.outputs[0].shape = ir.Shape(["n", 4])


def _other_rank(model: ir.Model) -> None:
    weight = model.graph.initializers["W"]
    weight.const_value, weight.shape = ir.tensor(_W[:4]), ir.Shape([4, 8])
    model.graph.inputs[0].shape = model.graph.outputs[0].shape = None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_no_such_operator, "the quantized graph is not valid"),
        (_not_finite, "quantized, y is NaN or infinite at n=2, normal values"),
        (_other_shape, r"quantized, y is float32\(2, 4\) at n=2, normal values, was float32\(2, 8\)"),
        (_other_rank, "quantized, it fails at n=2, normal values"),
        (lambda model: None, "nothing became integer; ONNX Runtime still multiplies in float at MatMul_0"),
    ],
)
def test_a_result_that_cannot_be_used_is_refused_and_not_written(
    write: Callable[..., Artifact], tmp_path: Path, change: Callable[[ir.Model], None], reason: str
) -> None:
    artifact = write(_LINEAR, W=_W)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(QuantizationError, match=reason):
        quantize(artifact, Broken(change), out=tmp_path / "q.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_infinities_that_the_float_model_has_too_are_no_fault(write: Callable[..., Artifact], tmp_path: Path) -> None:
    artifact = write(
        "g (float[n, 16] x) => (float[n, 8] y) { h = MatMul(x, W) y = Div(h, zero) }",
        W=_W,
        zero=np.zeros(1, np.float32),
    )
    assert quantize(artifact, Int8Dynamic(), out=tmp_path / "q.onnx").path.exists()


def test_an_existing_file_is_kept_unless_asked(write: Callable[..., Artifact], tmp_path: Path) -> None:
    artifact, out = write(_LINEAR, W=_W), tmp_path / "q.onnx"
    out.write_text("mine")
    with pytest.raises(ExistsError):
        quantize(artifact, Int8Dynamic(), out=out)
    assert out.read_text() == "mine"
    quantize(artifact, Int8Dynamic(), out=out, overwrite=True)
    assert modelfile.open_artifact(out).lineage[-1].tool == "quantize"


@pytest.mark.parametrize(("name", "opset", "needed"), [("int8-dynamic", 10, 11), ("int8-static", 12, 13)])
def test_an_opset_without_the_operators_is_refused(
    write: Callable[..., Artifact], tmp_path: Path, name: str, opset: int, needed: int
) -> None:
    artifact = write(_LINEAR, opset=opset, W=_W)
    samples = Samples.from_rows({"x": _W.T.copy()})
    with pytest.raises(QuantizationError, match=f"opset {opset}, but {name} needs at least {needed}"):
        quantize(artifact, RECIPES[name](), samples=samples, out=tmp_path / "q.onnx")


def test_a_model_that_answers_no_generated_feed_asks_for_samples(
    write: Callable[..., Artifact], tmp_path: Path
) -> None:
    artifact = write(
        "g (float[n] x) => (float[a, 8] y) { r = Reshape(x, s) y = MatMul(r, W) }", s=np.array([-1, 16]), W=_W
    )
    logged: list[str] = []

    class Log:
        @contextmanager
        def task(self, label: str, total: int) -> Iterator[Callable[..., None]]:
            yield lambda n=1, *, note="": None

        def log(self, message: str) -> None:
            logged.append(message)

    with pytest.raises(QuantizationError, match="answers none of the generated feeds.*give samples"):
        quantize(artifact, Int8Dynamic(), out=tmp_path / "q.onnx", progress=Log())
    assert "left out: the float model refuses it" in logged[0]
    samples = Samples.from_feeds([{"x": np.ones(32, np.float32)}])
    assert quantize(artifact, Int8Dynamic(), samples=samples, out=tmp_path / "q.onnx").path.exists()


def test_a_weight_behind_a_model_local_function_is_found(write: Callable[..., Artifact], tmp_path: Path) -> None:
    import onnx

    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["": 20, "local": 1]>
        g (float[n, 16] x) => (float[n, 8] y) { y = local.linear(x, W) }
        <domain: "local", opset_import: ["": 20]> linear (a, w) => (b) { b = MatMul(a, w) }"""
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(_W, "W"))
    onnx.save(model, tmp_path / "f.onnx")
    done = quantize(modelfile.open_artifact(tmp_path / "f.onnx"), Int8Dynamic(), out=tmp_path / "q.onnx")
    assert done.lineage[-1].options["coverage"]["integer_weight_share"] == 1.0


@pytest.mark.parametrize(
    ("body", "weights", "reason"),
    [
        ("y = MatMul(x, W)", {"W": _W.astype(np.float16)}, "MatMul with the float16 weight W"),
        ("y = GRU<hidden_size = 4>(x, W, R)", {}, "GRU with the float weight W"),
    ],
)
@pytest.mark.parametrize("name", ["int8-dynamic", "int8-static"])
def test_weights_out_of_reach_are_named(
    write: Callable[..., Artifact], tmp_path: Path, name: str, body: str, weights: dict[str, Any], reason: str
) -> None:
    if "GRU" in body:
        weights = {"W": np.ones((1, 12, 3), np.float32), "R": np.ones((1, 12, 4), np.float32)}
        head, x = "g (float[5, n, 3] x) => (float[5, 1, n, 4] y)", np.ones((5, 1, 3), np.float32)
    else:
        dtype = "float16" if weights["W"].dtype == np.float16 else "float"
        head, x = f"g ({dtype}[n, 16] x) => ({dtype}[n, 8] y)", np.ones((2, 16), weights["W"].dtype)
    artifact = write(f"{head} {{ {body} }}", **weights)
    with pytest.raises(QuantizationError, match=reason):
        quantize(artifact, RECIPES[name](), samples=Samples.from_feeds([{"x": x}]), out=tmp_path / "q.onnx")


def test_weights_that_only_a_body_has_are_out_of_reach_of_calibration(
    write: Callable[..., Artifact], tmp_path: Path
) -> None:
    artifact = write(
        """g (float[n, 16] x) => (float[n, 8] y) {
            s = ReduceSum<keepdims = 0>(x) c = Greater(s, zero)
            y = If(c) <then_branch = t () => (float[n, 8] p) { p = MatMul(x, W) },
                       else_branch = e () => (float[n, 8] q) { q = Gemm(x, W) }> }""",
        W=_W,
        zero=np.array(0, np.float32),
    )
    reason = "MatMul inside a subgraph with the float weight W .16, 8., Gemm inside a subgraph"
    samples = Samples.from_rows({"x": np.ones((2, 16), np.float32)})
    with pytest.raises(QuantizationError, match=reason):
        quantize(artifact, RECIPES["int8-static"](), samples=samples, out=tmp_path / "q.onnx")


@pytest.mark.parametrize("first", ["int8-dynamic", "int8-weight"])
def test_a_quantized_model_is_refused_or_passed_through(
    first: str, write: Callable[..., Artifact], answers: Callable[..., Any], tmp_path: Path
) -> None:
    body = "g (float[n, 3, 4, 4] x) => (float[n, 8, 4, 4] y) { y = Conv<pads = [1, 1, 1, 1]>(x, W) }"
    weight = np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)
    artifact = write(_LINEAR, W=_W) if first == "int8-dynamic" else write(body, W=weight)
    quantized, out = quantize(artifact, RECIPES[first](), out=tmp_path / "q.onnx"), tmp_path / "again.onnx"
    with pytest.raises(QuantizationError, match="is quantized already .it has .*--quantized-input pass"):
        quantize(quantized, RECIPES["int8-weight"](), out=out)
    assert not out.exists()
    passed = quantize(quantized, RECIPES["int8-static"](), out=out, quantized_input="pass")  # and needs no samples
    step = modelfile.open_artifact(out).lineage[-1]
    assert (step.tool, step.options["recipe"]) == ("quantize", None)
    found = ["DynamicQuantizeLinear", "MatMulInteger"] if first == "int8-dynamic" else ["integer weights"]
    assert step.options["passed_through"] == found
    assert step.options["coverage"]["stored_integer_share"] == 1.0
    feed = {"x": np.ones((2, 16) if first == "int8-dynamic" else (2, 3, 4, 4), np.float32)}
    np.testing.assert_array_equal(answers(passed.path, feed)[0], answers(quantized.path, feed)[0])
    assert [step.tool for step in passed.lineage] == ["quantize", "quantize"]


def test_pass_quantizes_a_float_model_as_ever(write: Callable[..., Artifact], tmp_path: Path) -> None:
    done = quantize(write(_LINEAR, W=_W), Int8Dynamic(), out=tmp_path / "q.onnx", quantized_input="pass")
    assert done.lineage[-1].options["recipe"] == "int8-dynamic"
