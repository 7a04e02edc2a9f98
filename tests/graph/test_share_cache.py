"""A decoder's cache is written in place only where that was proven to answer the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.errors import OptimizationError, UsageError
from edgeai.external import metadata
from edgeai.graph import CleanUp, FuseGroupQueryAttention, KeepLogits, optimize, share_cache
from edgeai.graph.share_cache import cache_objection
from edgeai.progress import SILENT
from edgeai.quantization import Int4Weight, Int8Dynamic, Int8Weight, Recipe, quantize
from edgeai.runtime.kv_cache import CACHE_KEY, IN_PLACE, InPlaceCache, open_cache
from edgeai.runtime.loading import load
from edgeai.samples import Samples
from edgeai.spec import Axis, Signature, TensorSpec

_HEADS = {"split": np.array([0, 0, 2, 8]), "join": np.array([0, 0, 16])}
# One layer over token embeddings, 2 heads of 8; {spoil} is where a test puts what must not be.
_DECODER = """g (int64[batch, s] input_ids, int64[batch, t] attention_mask,
       float[batch, 2, p, 8] PK, float[batch, 2, p, 8] PV)
    => (float[batch, s, 20] logits, float[batch, 2, t, 8] CK, float[batch, 2, t, 8] CV) {{
    x = Gather(table, input_ids)
    q0 = MatMul(x, Q) q1 = Reshape(q0, split) q = Transpose<perm = [0, 2, 1, 3]>(q1)
    k0 = MatMul(x, K) k1 = Reshape(k0, split) k = Transpose<perm = [0, 2, 1, 3]>(k1)
    v0 = MatMul(x, V) v1 = Reshape(v0, split) v = Transpose<perm = [0, 2, 1, 3]>(v1)
    CK = Concat<axis = 2>(PK, k)
    CV = Concat<axis = 2>(PV, v)
    p0 = Shape<start = 2, end = 3>(PK) s0 = Shape<start = 1, end = 2>(input_ids)
    n0 = Add(p0, s0) from = Squeeze(p0) to = Squeeze(n0) rows = Range(from, to, one) columns = Range(zero, to, one)
    r1 = Unsqueeze(rows, last) seen = LessOrEqual(columns, r1)
    a = Attention<scale = 0.35>(q, CK, CV, seen)
    a1 = Transpose<perm = [0, 2, 1, 3]>(a) a2 = Reshape(a1, join) {spoil} logits = MatMul({mixed}, table_t) }}"""


_NAMES = {
    "PK": "past_key_values.0.key",
    "PV": "past_key_values.0.value",
    "CK": "present.0.key",
    "CV": "present.0.value",
}


def decoder(write: Callable[..., Artifact], spoil: str = "", mixed: str = "a2", **more: Any) -> Artifact:
    random = np.random.default_rng(0)
    weights = {name: random.standard_normal((16, 16)).astype(np.float32) / 4 for name in "QKV"}
    table = random.standard_normal((20, 16)).astype(np.float32)
    scalars = {"zero": np.array(0), "one": np.array(1), "last": np.array([1])}
    artifact = write(
        _DECODER.format(spoil=spoil, mixed=mixed),
        opset=23, table=table, table_t=table.T.copy(), **_HEADS, **weights, **scalars, **more,
    )  # fmt: skip
    _rename(artifact.path)
    cache = ("batch", 2, "p", 8)
    inputs = (
        TensorSpec("input_ids", "int64", ("batch", "s"), low=0, high=20),
        TensorSpec("attention_mask", "int64", ("batch", "p+s"), low=0, high=2),
        *(TensorSpec(f"past_key_values.0.{part}", "float32", cache) for part in ("key", "value")),
    )
    outputs = (
        TensorSpec("logits", "float32", ("batch", "s", 20)),
        *(TensorSpec(f"present.0.{part}", "float32", ("batch", 2, "p+s", 8)) for part in ("key", "value")),
    )
    axes = (Axis("batch"), Axis("s", 1, 24), Axis("p", 0, 23), Axis("p+s", 1, 24))
    return dataclasses.replace(artifact, signature=Signature(inputs, outputs, axes))


def _rename(path: Path) -> None:
    """To names that ONNX's text form cannot spell."""
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.name = _NAMES.get(value.name, value.name)
    for node in model.graph.node:
        node.input[:] = [_NAMES.get(name, name) for name in node.input]
        node.output[:] = [_NAMES.get(name, name) for name in node.output]
    onnx.save(model, path)


def test_a_decoder_reads_no_length_from_its_cache(write: Callable[..., Artifact], tmp_path: Path) -> None:
    done = share_cache(decoder(write), out=tmp_path / "o.onnx")
    model = modelfile.load(done.path)
    for past in model.graph.inputs[2:4]:
        assert {node.op_type for node in past.consumers()} == {"GroupQueryAttention"}
    assert metadata(done.path)[CACHE_KEY] == IN_PLACE
    assert done.signature is not None and done.signature.axis("batch").maximum == 1
    assert done.lineage[-1].options["passes"][-2:] == ["CleanUp", "KeepLogits"]
    with load(done.path, ep="cpu") as session:
        assert session.signature == done.signature
        cache = open_cache(session, 1, 8)
        assert isinstance(cache, InPlaceCache)
        assert cache.advance(np.array([[1, 2, 3]]), np.ones((1, 3), np.int64), keep=2).shape == (1, 2, 20)


def test_it_is_a_form_like_any_other(write: Callable[..., Artifact], tmp_path: Path) -> None:
    class Log:
        task, lines = SILENT.task, list[str]()

        def log(self, message: str) -> None:
            self.lines.append(message)

    artifact = decoder(write)
    done = optimize(artifact, out=tmp_path / "o.onnx", form="in-place", progress=Log())
    assert done.lineage[-1].options["form"] == "in-place" and modelfile.open_artifact(done.path).lineage == done.lineage
    assert any("takes one text at a time" in line and "up to 64" in line for line in Log.lines), "a lost batch is said"
    with pytest.raises(UsageError, match="does not run form 'in-place'"):
        optimize(artifact, out=tmp_path / "p.onnx", form="in-place", target="openvino")
    with pytest.raises(UsageError, match="'inplace' is unknown.*in-place"):
        optimize(artifact, out=tmp_path / "p.onnx", form="inplace")


def test_a_cache_that_leads_to_other_logits_is_an_objection(write: Callable[..., Artifact], tmp_path: Path) -> None:
    done = share_cache(decoder(write), out=tmp_path / "o.onnx")
    assert done.signature is not None
    assert not cache_objection(done.path, done.path, done.signature)
    other = decoder(write, "b = Neg(a2)", "b")
    assert "of their scale" in cache_objection(other.path, done.path, done.signature)


@pytest.mark.parametrize("recipe", [Int8Weight(), Int8Dynamic(), Int4Weight()], ids=lambda one: type(one).__name__)
def test_integers_leave_the_cache_in_place_and_logits_where_they_are_read(
    write: Callable[..., Artifact], tmp_path: Path, recipe: Recipe
) -> None:
    done = share_cache(decoder(write), out=tmp_path / "o.onnx")
    small = quantize(done, recipe, out=tmp_path / "q.onnx")
    with load(small.path, ep="cpu") as session:
        assert session.signature == done.signature
        assert isinstance(open_cache(session, 1, 8), InPlaceCache)
    raw = ort.InferenceSession(small.path, providers=["CPUExecutionProvider"])
    assert [spec.name for spec in raw.get_overridable_initializers()] == ["logits_to_keep"]


def test_samples_are_answered_too(write: Callable[..., Artifact], tmp_path: Path) -> None:
    ids = np.array([[1, 2, 3], [4, 5, 6]])
    rows = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    rows |= {f"past_key_values.0.{part}": np.zeros((2, 2, 0, 8), np.float32) for part in ("key", "value")}
    artifact = decoder(write)
    feeds = [
        share_cache(artifact, out=tmp_path / name, samples=samples).lineage[-1].options["feeds"]
        for name, samples in (("without.onnx", None), ("with.onnx", Samples.from_rows(rows)))
    ]
    assert feeds[1] == feeds[0] + 2, "each sample is a feed of one text"


@pytest.mark.parametrize("minimum", [None, 2])
def test_a_model_that_takes_no_single_text_is_refused(
    write: Callable[..., Artifact], tmp_path: Path, minimum: int | None
) -> None:
    artifact = decoder(write)
    signature = artifact.signature
    assert signature is not None
    if minimum is None:
        fixed = [
            tuple(dataclasses.replace(spec, shape=(2, *spec.shape[1:])) for spec in specs)
            for specs in (signature.inputs, signature.outputs)
        ]
        signature = Signature(*fixed, signature.axes[1:])
    else:
        signature = dataclasses.replace(signature, axes=(Axis("batch", minimum, 4), *signature.axes[1:]))
    with pytest.raises(UsageError, match="takes at least 2 texts at once"):
        share_cache(dataclasses.replace(artifact, signature=signature), out=tmp_path / "o.onnx")
    assert not list(tmp_path.glob("o.onnx*"))


def test_a_context_that_no_memory_holds_is_not_allocated_to_prove_it(
    write: Callable[..., Artifact], tmp_path: Path
) -> None:
    artifact = decoder(write)
    assert artifact.signature is not None
    axes = tuple(dataclasses.replace(axis, maximum=1 << 50) for axis in artifact.signature.axes if axis.name == "p+s")
    signature = dataclasses.replace(artifact.signature, axes=(*artifact.signature.axes[:3], *axes))
    done = share_cache(dataclasses.replace(artifact, signature=signature), out=tmp_path / "o.onnx")
    assert metadata(done.path)[CACHE_KEY] == IN_PLACE


@pytest.mark.parametrize(
    ("spoil", "mixed", "reason"),
    [
        # the past itself is read, beside the attention: what lies behind its end would count
        ("sum = ReduceSum<keepdims = 0>(PK, three) b = Add(a2, sum)", "b", "not every layer"),
        ("whole = Shape(PK) f = Cast<to = 1>(whole) m = ReduceMax<keepdims = 0>(f) b = Add(a2, m)",
         "b", "not every layer"),
    ],
)  # fmt: skip
def test_a_graph_that_reads_its_past_otherwise_is_refused(
    write: Callable[..., Artifact], tmp_path: Path, spoil: str, mixed: str, reason: str
) -> None:
    spoiled = decoder(write, spoil, mixed, three=np.array([0, 1, 2, 3]))
    with pytest.raises(OptimizationError, match=f"cannot be written in place: {reason}"):
        share_cache(spoiled, out=tmp_path / "o.onnx")
    assert not list(tmp_path.glob("o.onnx*"))


def test_the_mark_survives_other_passes_and_a_second_time(write: Callable[..., Artifact]) -> None:
    model = FuseGroupQueryAttention()(modelfile.load(decoder(write).path)).model
    again = CleanUp()(FuseGroupQueryAttention()(model).model).model
    assert again.metadata_props[CACHE_KEY] == IN_PLACE


def test_what_is_no_decoder_is_refused(write: Callable[..., Artifact], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no decoder with a KV cache"):
        share_cache(write("g (float[n] x) => (float[n] y) { y = Relu(x) }"), out=tmp_path / "o.onnx")


@pytest.mark.parametrize("blocks", [False, True])
def test_logits_are_kept_for_the_last_positions_by_an_input_with_a_default(
    write: Callable[..., Artifact], keeps_contract: Callable[..., Any], blocks: bool, tmp_path: Path
) -> None:
    artifact = decoder(write)
    if blocks:
        artifact = quantize(artifact, Int8Weight(block_size=16), out=tmp_path / "q.onnx")
        assert "MatMulNBits" in {node.op_type for node in modelfile.load(artifact.path).graph}
    ids = np.array([[3, 1, 4], [1, 5, 9]])
    cache = np.random.default_rng(0).standard_normal((2, 2, 2, 4, 8)).astype(np.float32)
    feed = {"input_ids": ids, "attention_mask": np.ones((2, 7), np.int64)}
    feed |= {f"past_key_values.0.{part}": array for part, array in zip(("key", "value"), cache, strict=True)}
    outcome = keeps_contract(KeepLogits(), artifact, feed)
    assert outcome.modified
    ir.save(outcome.model, artifact.path)
    session = ort.InferenceSession(artifact.path, providers=["CPUExecutionProvider"])
    whole = session.run(["logits"], feed)[0]
    assert whole.shape == (2, 3, 20)
    for keep in (1, 2, 3):
        (kept,) = session.run(["logits"], feed | {"logits_to_keep": np.array([keep])})
        np.testing.assert_allclose(kept, whole[:, -keep:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "g (int64[b, s] input_ids) => (float[b, s, 20] logits) { logits = Gather(table, input_ids) }",
        "g (int64[b, s] x) => (float[b, s, 16] logits) { h = Gather(table, x) logits = MatMul(h, Q) }",
    ],
)
def test_logits_that_are_no_product_of_ids_are_left_alone(write: Callable[..., Artifact], text: str) -> None:
    artifact = write(text, table=np.ones((20, 16), np.float32), Q=np.ones((16, 16), np.float32))
    assert not KeepLogits()(modelfile.load(artifact.path)).modified
