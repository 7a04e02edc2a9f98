from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.errors import ExistsError, InputError, OptimizationError, UsageError
from edgeai.graph import DEFAULT_PASSES, TARGETS, CleanUp, FuseGelu, RaiseOpset, optimize
from edgeai.graph.proof import Proof
from edgeai.samples import Samples
from edgeai.spec import Axis, Signature, TensorSpec

_MLP = "g (float[n, 8] x) => (float[n, 4] y) { h = MatMul(x, W) i = Identity(h) y = Relu(i) }"
_W = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)


def test_weights_beside_the_model_make_no_difference(write: Callable[..., Any], tmp_path: Path) -> None:
    body = """g (float[n, 64] x) => (float[n, 64] y) { h = MatMul(x, w) i = Identity(h) k = Add(i, b) d = Div(k, r)
        e = Erf(d) o = Add(e, one) m = Mul(k, o) y = Mul(m, half) }"""
    sizes = {"w": (64, 64), "b": (64,), "r": (), "one": (), "half": ()}  # 16 KiB, 256 bytes, four
    values = {"r": 2**0.5, "one": 1, "half": 0.5}
    weights = {name: np.full(size, values.get(name, 0.1), np.float32) for name, size in sizes.items()}
    inside = write(body, opset=17, name="inside", **weights)
    beside = tmp_path / "beside.onnx"
    ir.save(ir.load(inside.path), beside, external_data="weights", size_threshold_bytes=0)
    passes = (RaiseOpset(20), CleanUp(), FuseGelu())
    done = [
        optimize(one, out=tmp_path / f"o{index}.onnx", passes=passes)
        for index, one in enumerate((inside, modelfile.open_artifact(beside)))
    ]
    first, second = (artifact.lineage[-1].options for artifact in done)
    assert first == second
    assert second["passes"] == ["RaiseOpset", "CleanUp", "FuseGelu"]


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Callable[..., None]]:
        yield lambda n=1, *, note="": None

    def log(self, message: str) -> None:
        self.lines.append(message)


class ChangesNumbers(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        weight = model.graph.initializers["W"]
        weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(1.01))
        return ir.passes.PassResult(model, modified=True)


class OnlyWhenBatched(ir.passes.InPlacePass):
    """Right at the batch size of the given sample, wrong at others."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        output = model.graph.outputs[0]
        tape = ir.tape.Tape()
        tail = tape.op("Slice", [output, *(self._constant(model, n) for n in (0, 1, 0))])
        tail.name = "first_row"
        model.graph.extend(tape.nodes)
        output.name, tail.name = "before", output.name
        model.graph.outputs[0] = tail
        return ir.passes.PassResult(model, modified=True)

    def _constant(self, model: ir.Model, number: int) -> ir.Value:
        name = f"slice_{number}_{len(model.graph.initializers)}"
        tensor = ir.tensor(np.array([number]))
        value = ir.Value(name=name, const_value=tensor, shape=ir.Shape([1]), type=ir.TensorType(tensor.dtype))
        model.graph.register_initializer(value)
        return value


class AddsIdentity(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        output = model.graph.outputs[0]
        tape = ir.tape.Tape()
        tail = tape.op("Identity", [output])
        model.graph.extend(tape.nodes)
        output.name, tail.name = f"{len(model.graph)}_{output.name}", output.name
        model.graph.outputs[0] = tail
        return ir.passes.PassResult(model, modified=True)


class MakesInvalid(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        next(iter(model.graph)).op_type = "NoSuchOperator"
        return ir.passes.PassResult(model, modified=True)


class Crashes(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        model.graph.initializers.clear()
        raise IndexError("list index out of range")


class RenamesInput(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        model.graph.inputs[0].name = "renamed"
        return ir.passes.PassResult(model, modified=True)


class RenamesOutput(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        model.graph.outputs[0].name = "renamed"
        return ir.passes.PassResult(model, modified=True)


class MakesNaN(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        weight = model.graph.initializers["W"]
        weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32("nan"))
        return ir.passes.PassResult(model, modified=True)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (ChangesNumbers(), "y is off by 0.0"),
        (MakesNaN(), "became nan"),
        (MakesInvalid(), "the result is no valid model"),
        (Crashes(), "it failed: IndexError: list index out of range"),
        (RenamesInput(), "the inputs became ('renamed',)"),
        (RenamesOutput(), "the outputs became ('renamed',)"),
        (OnlyWhenBatched(), "y became float32(1, 4), was float32(2, 4)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, ir.passes.PassBase) else "",
)
def test_a_bad_pass_is_rolled_back_by_name_with_its_reason(
    write: Callable[..., Any], tmp_path: Path, bad: ir.passes.PassBase, reason: str
) -> None:
    log = Log()
    artifact = write(_MLP, W=_W)
    one_row = Samples.from_rows({"x": np.ones((1, 8), np.float32)})
    done = optimize(artifact, out=tmp_path / "o.onnx", passes=(bad, CleanUp()), samples=one_row, progress=log)
    options = done.lineage[-1].options
    name = type(bad).__name__
    assert [entry["pass"] for entry in options["rolled_back"]] == [name]
    assert reason in options["rolled_back"][0]["reason"]
    assert any(line.startswith(f"{name} rolled back: ") for line in log.lines)
    assert options["passes"] == ["CleanUp"], "the passes after it still run, on the graph before it"
    np.testing.assert_array_equal(modelfile.load(done.path).graph.initializers["W"].const_value.numpy(), _W)


def test_good_passes_are_proven_together_and_each_alone_where_one_is_bad(
    write: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    objection = Proof.objection

    def counted(proof: Proof, model: ir.Model) -> str:
        asked.append(objection(proof, model))
        return asked[-1]

    monkeypatch.setattr(Proof, "objection", counted)
    artifact = write(_MLP, W=_W)
    good = optimize(artifact, out=tmp_path / "good.onnx", passes=(CleanUp(), AddsIdentity(), AddsIdentity()))
    assert asked == [""]
    assert good.lineage[-1].options["passes"] == ["CleanUp", "AddsIdentity", "AddsIdentity"]
    asked.clear()
    bad = optimize(artifact, out=tmp_path / "bad.onnx", passes=(CleanUp(), ChangesNumbers(), AddsIdentity()))
    assert [bool(reason) for reason in asked] == [True, False, True, False], "all of them, then one by one"
    assert bad.lineage[-1].options["passes"] == ["CleanUp", "AddsIdentity"]
    asked.clear()
    same = optimize(artifact, out=tmp_path / "same.onnx", passes=())
    assert asked == [] and same.lineage[-1].options["passes"] == []


def test_the_encoder_comes_out_smaller_equal_and_with_its_lineage(
    encoder: Artifact, encoder_feed: dict[str, Any], tmp_path: Path
) -> None:
    done = optimize(encoder, out=tmp_path / "o.onnx")
    step = modelfile.open_artifact(done.path).lineage[-1]
    assert step.tool == "optimize"
    assert step.options["target"] == "cpu"
    assert "FoldTransposedWeight" in step.options["passes"], "the head's weight is in sight"
    assert step.options["rolled_back"] == []
    assert step.options["nodes"][1] < step.options["nodes"][0]
    assert step.options["feeds"] >= 2
    assert len(step.parent_sha256) == 64
    assert modelfile.open_artifact(done.path).signature == encoder.signature, "axes and ranges are kept"
    again = optimize(done, out=tmp_path / "again.onnx")
    assert again.lineage[-1].options["passes"] == []
    assert len(again.lineage) == 2


@pytest.mark.parametrize("target", ["portable", "tensorrt"])
def test_contrib_operators_are_left_out_where_they_do_not_run(encoder: Artifact, tmp_path: Path, target: str) -> None:
    log = Log()
    done = optimize(encoder, out=tmp_path / "o.onnx", passes=DEFAULT_PASSES, target=target, progress=log)
    assert done.lineage[-1].options["left_out"] == ["FuseGelu", "FuseAttention"]
    assert f"FuseAttention left out: {target} does not run com.microsoft operators" in log.lines
    assert all(node.domain == "" for node in modelfile.load(done.path).graph)


def test_the_same_input_gives_the_same_bytes(encoder: Artifact, tmp_path: Path) -> None:
    paths = [optimize(encoder, out=tmp_path / f"{i}.onnx").path for i in range(2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_an_unknown_target_is_refused_with_those_that_exist(write: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="target 'tpu' is unknown .one of cpu, cuda"):
        optimize(write(_MLP, W=_W), out=tmp_path / "o.onnx", target="tpu")
    assert "cpu" in TARGETS


def test_an_existing_file_is_kept_unless_asked(write: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    out.write_text("mine")
    with pytest.raises(ExistsError):
        optimize(write(_MLP, W=_W), out=out)
    assert out.read_text() == "mine"
    optimize(write(_MLP, W=_W), out=out, overwrite=True)
    assert len(modelfile.load(out).graph) == 2


def test_a_random_model_cannot_be_proven(write: Callable[..., Any], tmp_path: Path) -> None:
    artifact = write("g (float[n] x) => (float[n] y) { r = RandomNormalLike(x) y = Add(x, r) }")
    with pytest.raises(OptimizationError, match="two answers to the same feed"):
        optimize(artifact, out=tmp_path / "o.onnx")
    assert not (tmp_path / "o.onnx").exists()


def test_a_model_that_runs_on_nothing_generated_asks_for_samples(write: Callable[..., Any], tmp_path: Path) -> None:
    # Reshape to (n, 7): only multiples of 7 elements pass, and the generated sizes do not know that.
    artifact = write("g (float[n] x) => (float[a, 70001] y) { y = Reshape(x, s) }", s=np.array([-1, 70001]))
    with pytest.raises(OptimizationError, match="answers none of the generated feeds.*give samples"):
        optimize(artifact, out=tmp_path / "o.onnx")
    samples = Samples.from_feeds([{"x": np.ones(70001, np.float32)}])
    assert optimize(artifact, out=tmp_path / "o.onnx", samples=samples).lineage[-1].options["feeds"] == 1


def test_samples_that_do_not_fit_are_refused(write: Callable[..., Any], tmp_path: Path) -> None:
    artifact = write(_MLP, W=_W)
    with pytest.raises(InputError, match="axis 1 must be 8, got 5"):
        optimize(artifact, out=tmp_path / "o.onnx", samples=Samples.from_rows({"x": np.ones((2, 5), np.float32)}))


def test_a_sample_that_the_model_refuses_is_named(write: Callable[..., Any], tmp_path: Path) -> None:
    artifact = write("g (int64[n] ids) => (float[n, 4] y) { y = Gather(W, ids) }", W=_W)
    with pytest.raises(OptimizationError, match="cannot answer sample 0.*out of data bounds"):
        optimize(artifact, out=tmp_path / "o.onnx", samples=Samples.from_rows({"ids": np.array([99])}))


def test_a_fixed_batch_takes_whole_batches_of_samples(write: Callable[..., Any], tmp_path: Path) -> None:
    artifact = write(_MLP.replace("[n,", "[3,"), W=_W)
    samples = Samples.from_rows({"x": np.ones((8, 8), np.float32)})
    done = optimize(artifact, out=tmp_path / "o.onnx", samples=samples)
    assert done.lineage[-1].options["passes"] == ["CleanUp"]


@pytest.mark.parametrize("dtype", ["float16", "float64", "int64"])
def test_other_dtypes_are_compared_in_their_own_precision(
    write: Callable[..., Any], tmp_path: Path, dtype: str
) -> None:
    onnx_name = {"float16": "float16", "float64": "double", "int64": "int64"}[dtype]
    body = f"g ({onnx_name}[n, 8] x) => ({onnx_name}[n, 4] y) {{ h = MatMul(x, W) y = Identity(h) }}"
    weight = (_W * 3).astype(dtype)
    artifact = write(body, W=weight)
    rows = Samples.from_rows({"x": np.arange(16).reshape(2, 8).astype(dtype)})
    assert optimize(artifact, out=tmp_path / "o.onnx", samples=rows).lineage[-1].options["passes"] == ["CleanUp"]

    class Off(ir.passes.InPlacePass):
        def call(self, model: ir.Model) -> ir.passes.PassResult:
            value = model.graph.initializers["W"]
            value.const_value = ir.tensor((weight * 2).astype(dtype))
            return ir.passes.PassResult(model, modified=True)

    done = optimize(artifact, out=tmp_path / "p.onnx", samples=rows, passes=(Off(),))
    assert [entry["pass"] for entry in done.lineage[-1].options["rolled_back"]] == ["Off"]


def test_the_default_passes_are_one_ordered_tuple() -> None:
    names = [type(pass_).__name__ for pass_ in DEFAULT_PASSES]
    folds = ["CleanUp", "FoldBatchNorm", "FoldTransposedWeight"]
    assert names == [*folds, "FuseLayerNorm", "FuseGelu", "FuseGelu", "FuseAttention", "CleanUp"]
    assert [getattr(pass_, "writes_contrib", False) for pass_ in DEFAULT_PASSES] == [False] * 5 + [True, True, False]


def test_a_file_without_a_stamp_gets_its_signature_from_the_graph(write: Callable[..., Any], tmp_path: Path) -> None:
    bare = dataclasses.replace(write(_MLP, W=_W), signature=None)
    assert optimize(bare, out=tmp_path / "o.onnx").signature.input_names == ("x",)


def test_a_size_that_kills_onnx_runtime_is_left_out_of_the_proof(tmp_path: Path) -> None:
    """A fused product of attention divides by the number of positions; in this process that would be the end."""
    proto = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 20, "com.microsoft" : 1]>
        g (float[seq, 4, 2] x) => (float[4, seq, seq] y) {
        i = Identity(x)
        y = com.microsoft.FusedMatMul <transBatchA = 1, transBatchB = 1, transB = 1> (i, x) }"""
    )
    onnx.save(proto, tmp_path / "m.onnx")
    signature = Signature(
        (TensorSpec("x", "float32", ("seq", 4, 2)),),
        (TensorSpec("y", "float32", (4, "seq", "seq")),),
        (Axis("seq", 0, 8),),
    )
    done = optimize(Artifact(tmp_path / "m.onnx", (), signature), out=tmp_path / "o.onnx")
    assert done.lineage[-1].options["rolled_back"] == []
    assert sum(1 for _ in modelfile.load(done.path).graph) == 1
