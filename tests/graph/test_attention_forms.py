"""Attention as exporters write it: each spelling ends in one operator, and every answer stays what it was."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.graph import (
    CleanUp,
    FlattenAttention,
    FuseAttention,
    FuseGroupQueryAttention,
    RaiseOpset,
    SeparateQKV,
    SplitHeads,
)

from .conftest import answers, operators

TO_MHA = (CleanUp(), RaiseOpset(17), SplitHeads(), FuseAttention(), CleanUp())
TO_STANDARD = (CleanUp(), RaiseOpset(23), SplitHeads(), SeparateQKV(), FlattenAttention(), CleanUp())

_MASKS = ("none", "row", "full", "added", "causal")
EXPORTS = [
    ("eager", "none", "", "torchscript", 13),
    ("eager", "row", "chunk", "torchscript", 13),
    ("eager", "added", "view", "torchscript", 13),
    *((style, mask, "", "torchscript", 17) for style in ("eager", "sdpa") for mask in _MASKS),
    ("sdpa", "full", "chunk", "torchscript", 17),
    ("sdpa", "none", "view", "torchscript", 17),
    ("sdpa", "full", "", "torch.export", 18),
    ("eager", "row", "view", "torch.export", 20),
    ("sdpa", "causal", "", "torch.export", 20),
    ("sdpa", "full", "chunk", "torch.export", 23),
]


def _feeds(artifact: Artifact) -> list[dict[str, Any]]:
    """Several shapes, each row padded at its own length; the last feed has a row that may see nothing."""
    random = np.random.default_rng(0)
    feeds = []
    for batch, length in ((2, 5), (1, 2), (3, 16), (2, 3)):
        kept = random.integers(1, length + 1, (batch, 1))
        feeds.append(
            {
                "x": random.standard_normal((batch, length, 16)).astype(np.float32),
                "seen": (np.arange(length) < kept).astype(np.int64),
            }
        )
    feeds[-1]["seen"][0] = 0
    wanted = {value.name for value in modelfile.load(artifact.path).graph.inputs}
    return [{name: array for name, array in feed.items() if name in wanted} for feed in feeds]


def _apply(passes: tuple[ir.passes.PassBase, ...], artifact: Artifact) -> ir.Model:
    return functools.reduce(lambda model, pass_: pass_(model).model, passes, modelfile.load(artifact.path))


@pytest.mark.parametrize("export", EXPORTS, ids=lambda export: "-".join(map(str, export)))
@pytest.mark.parametrize(
    ("passes", "op_type"), [(TO_MHA, "MultiHeadAttention"), (TO_STANDARD, "Attention")], ids=["mha", "attention3d"]
)
def test_every_spelling_becomes_one_operator_that_answers_the_same(
    attention: Callable[..., Artifact], export: Any, passes: Any, op_type: str, tmp_path: Any
) -> None:
    artifact = attention(*export)
    model = _apply(passes, artifact)
    found = operators(model)
    assert found[op_type] == 1
    assert found["Softmax"] == found["Transpose"] == 0
    ir.save(model, tmp_path / "after.onnx")
    for feed in _feeds(artifact):
        (want,), (got,) = answers(artifact.path, feed), answers(tmp_path / "after.onnx", feed)
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


_HEADS = {"split": np.array([0, 0, 2, 4]), "join": np.array([0, 0, 8])}
_WEIGHTS = {name: np.random.default_rng(i).standard_normal((8, 8)).astype(np.float32) for i, name in enumerate("QKVO")}
_DECOMPOSED = """g (float[b, s, 8] x, float[b, 2, p, 4] pk, float[b, 2, p, 4] pv, {mask_in})
    => (float[b, s, 8] y, float[b, 2, t, 4] ck, float[b, 2, t, 4] cv) {{
    q0 = MatMul(x, Q) q1 = Reshape(q0, split) q = Transpose<perm = [0, 2, 1, 3]>(q1)
    k0 = MatMul(x, K) k1 = Reshape(k0, split) k = Transpose<perm = [0, 2, 1, 3]>(k1) ck = Concat<axis = 2>(pk, k)
    v0 = MatMul(x, V) v1 = Reshape(v0, split) v = Transpose<perm = [0, 2, 1, 3]>(v1) cv = Concat<axis = 2>(pv, v)
    kt = Transpose<perm = [0, 1, 3, 2]>(ck) s0 = MatMul(q, kt) s1 = Mul(s0, half)
    {mask} w = Softmax<axis = -1>(s2) a = MatMul(w, cv)
    a1 = Transpose<perm = [0, 2, 1, 3]>(a) a2 = Reshape(a1, join) y = MatMul(a2, O) }}"""


def _cached(write: Callable[..., Artifact], mask_in: str, mask: str, **more: Any) -> Artifact:
    body = _DECOMPOSED.format(mask_in=mask_in, mask=mask)
    return write(body, opset=23, half=np.float32(0.5).reshape(()), **_HEADS, **_WEIGHTS, **more)


def _cache_feed(past: int, length: int) -> dict[str, Any]:
    random, batch = np.random.default_rng(past), 2
    cache = random.standard_normal((2, batch, 2, past, 4)).astype(np.float32)
    x = random.standard_normal((batch, length, 8)).astype(np.float32)
    bias = np.triu(np.full((length, past + length), -1e9, np.float32), past + 1)
    return {"x": x, "pk": cache[0], "pv": cache[1], "m": np.broadcast_to(bias, (batch, 1, *bias.shape)).copy()}


@pytest.mark.parametrize("pass_", [FuseAttention(), FlattenAttention()], ids=lambda pass_: type(pass_).__name__)
@pytest.mark.parametrize(("past", "length"), [(0, 3), (4, 1), (3, 2)])
def test_a_cache_is_handed_to_the_operator(
    write: Callable[..., Any], keeps_contract: Callable[..., Any], pass_: Any, past: int, length: int
) -> None:
    artifact = _cached(write, "float[b, 1, s, t] m", "s2 = Add(s1, m)")
    outcome = keeps_contract(pass_, artifact, _cache_feed(past, length))
    assert outcome.modified
    assert outcome.operators["Concat"] == outcome.operators["Transpose"] == 0
    assert [value.name for value in outcome.model.graph.outputs] == ["y", "ck", "cv"]


def test_a_mask_made_from_the_whole_cache_keeps_the_concatenation(
    write: Callable[..., Any], keeps_contract: Callable[..., Any]
) -> None:
    mask = """n = Shape<start = 2, end = 3>(ck) l = Shape<start = 1, end = 2>(x) sq = Concat<axis = 0>(l, n)
        one = Expand(half, sq) up = Trilu<upper = 0>(one) no = Equal(up, zero) s2 = Where(no, low, s1)"""
    scalars = {"zero": np.float32(0).reshape(()), "low": np.float32(-1e9).reshape(())}
    artifact = _cached(write, "float[b, 1, s, t] m", mask, **scalars)
    outcome = keeps_contract(FuseAttention(), artifact, _cache_feed(0, 3))
    assert outcome.operators["MultiHeadAttention"] == 1
    assert outcome.operators["Concat"] >= 2, "the mask must know the present keys before the attention has made them"


_GROUPED = """g (float[1, s, 16] x, float[1, 1, p, 8] pk, float[1, 1, p, 8] pv, float[1, 1, s, t] m)
    => (float[1, s, 16] y, float[1, 1, t, 8] ck, float[1, 1, t, 8] cv) {
    q0 = MatMul(x, Q) q1 = Reshape(q0, two) q = Transpose<perm = [0, 2, 1, 3]>(q1)
    k0 = MatMul(x, K) k1 = Reshape(k0, one) k = Transpose<perm = [0, 2, 1, 3]>(k1) ck = Concat<axis = 2>(pk, k)
    v0 = MatMul(x, V) v1 = Reshape(v0, one) v = Transpose<perm = [0, 2, 1, 3]>(v1) cv = Concat<axis = -2>(pv, v)
    a = Attention<scale = 0.5>(q, ck, cv, m)
    a1 = Transpose<perm = [0, 2, 1, 3]>(a) y = Reshape(a1, join) }"""


@pytest.mark.parametrize(("past", "length"), [(0, 3), (4, 1), (3, 2)])
def test_grouped_heads_share_their_keys_in_the_operators_that_know_them(
    write: Callable[..., Any], keeps_contract: Callable[..., Any], past: int, length: int
) -> None:
    random = np.random.default_rng(past)
    shapes = {"Q": (16, 16), "K": (16, 8), "V": (16, 8)}
    weights = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    views = {"two": np.array([0, 0, 2, 8]), "one": np.array([0, 0, 1, 8]), "join": np.array([0, 0, 16])}
    artifact = write(_GROUPED, opset=23, **weights, **views)
    cache = random.standard_normal((2, 1, 1, past, 8)).astype(np.float32)
    x = random.standard_normal((1, length, 16)).astype(np.float32)
    bias = np.triu(np.full((1, 1, length, past + length), -1e9, np.float32), past + 1)
    feed = {"x": x, "pk": cache[0], "pv": cache[1], "m": bias}
    flat = keeps_contract(FlattenAttention(), artifact, feed)
    assert flat.modified
    assert flat.operators["Transpose"] == flat.operators["Concat"] == 0
    fused = keeps_contract(FuseGroupQueryAttention(), artifact, feed)
    assert fused.operators["GroupQueryAttention"] == 1
    assert not FuseAttention()(modelfile.load(artifact.path)).modified, "it has a key head for every query head"


def test_a_head_size_that_the_kernel_refuses_is_left_alone(write: Callable[..., Any]) -> None:
    artifact = _cached(write, "float[b, 1, s, t] m", "s2 = Add(s1, m)")
    assert not FuseGroupQueryAttention()(modelfile.load(artifact.path)).modified


_SINGLE = """g (float[b, s, 8] x) => (float[b, s, 8] y{outputs}) {{
    q0 = MatMul(x, Q) q1 = Reshape(q0, split) q = Transpose<perm = [0, 2, 1, 3]>(q1)
    k0 = MatMul(x, K) k1 = Reshape(k0, split) k = Transpose<perm = [0, 2, 1, 3]>(k1)
    v0 = MatMul(x, V) v1 = Reshape(v0, split) v = Transpose<perm = [0, 2, 1, 3]>(v1)
    kt = Transpose<perm = {keys}>(k) s0 = MatMul(q, kt) {scores} w = Softmax<axis = {axis}>(s1) a = MatMul(w, v)
    a1 = Transpose<perm = [0, 2, 1, 3]>(a) a2 = Reshape(a1, join) y = MatMul(a2, O) }}"""


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("the softmax is over the queries", {"axis": "2"}),
        ("the weights are read elsewhere", {"outputs": ", float[b, 2, s, s] w"}),
        ("the scores are read elsewhere", {"outputs": ", float[b, 2, s, s] s0"}),
        ("the scale is not one number", {"scores": "s1 = Mul(s0, vector)"}),
        ("the scale changes from run to run", {"scores": "r = ReduceMax<keepdims = 0>(x) s1 = Mul(s0, r)"}),
        ("the mask is scaled too", {"scores": "m = Add(s0, vector) s1 = Mul(m, half)"}),
        ("what is filled in hides nothing", {"scores": "c = Greater(s0, half) s1 = Where(c, half, s0)"}),
        ("the scores are squared", {"scores": "s1 = Mul(s0, s0)"}),
    ],
)
@pytest.mark.parametrize("pass_", [FuseAttention(), FlattenAttention()], ids=lambda pass_: type(pass_).__name__)
def test_what_only_looks_like_attention_is_left_alone(
    write: Callable[..., Any], pass_: Any, reason: str, changes: dict[str, str]
) -> None:
    usual = {"outputs": "", "keys": "[0, 1, 3, 2]", "scores": "s1 = Mul(s0, half)", "axis": "-1"}
    constants = {"half": np.float32(0.5).reshape(()), "vector": np.array([0.5, 1.0, 2.0], np.float32)}
    same = write(_SINGLE.format(**usual), opset=23, **constants, **_HEADS, **_WEIGHTS)
    assert pass_(modelfile.load(same.path)).modified, "else this test proves nothing"
    other = write(_SINGLE.format(**usual | changes), opset=23, **constants, **_HEADS, **_WEIGHTS)
    assert not pass_(modelfile.load(other.path)).modified, reason


def test_an_output_that_is_read_with_its_heads_apart_gets_them_back(
    write: Callable[..., Any], keeps_contract: Callable[..., Any]
) -> None:
    body = _SINGLE.format(outputs=", float[b, 2, s, 4] a", keys="[0, 1, 3, 2]", scores="s1 = Identity(s0)", axis="-1")
    artifact = write(body.replace("s1 = Identity(s0)", "s1 = Div(s0, half)"), opset=23, half=np.float32(2).reshape(()),
                     **_HEADS, **_WEIGHTS)  # fmt: skip
    outcome = keeps_contract(FuseAttention(), artifact, {"x": np.ones((2, 3, 8), np.float32)})
    assert outcome.operators["MultiHeadAttention"] == 1
    assert [value.name for value in outcome.model.graph.outputs] == ["y", "a"]


def test_a_row_under_two_masks_is_zeros_and_one_under_either_is_the_mean(
    write: Callable[..., Any], keeps_contract: Callable[..., Any]
) -> None:
    split = " ".join(f"{n}1 = Reshape({n}0, apart) {n} = Transpose<perm = [0, 2, 1, 3]>({n}1)" for n in "qkv")
    artifact = write(
        f"""g (float[b, s, 16] q0, float[b, s, 16] k0, float[b, s, 16] v0, bool[b, 1, s, s] one, bool[b, 1, s, s] two)
            => (float[b, s, 16] y) {{ {split} t = Transpose<perm = [0, 1, 3, 2]>(k) s0 = MatMul(q, t)
            m1 = Where(one, zero, low) m2 = Where(two, zero, low) s1 = Add(s0, m1) s2 = Add(s1, m2) p = Softmax(s2)
            n = IsNaN(p) z = Where(n, zero, p) y0 = MatMul(z, v) y1 = Transpose<perm = [0, 2, 1, 3]>(y0)
            y = Reshape(y1, whole) }}""",
        opset=23, zero=np.zeros((), np.float32), low=np.array(np.finfo(np.float32).min),
        apart=np.array([0, 0, 2, 8]), whole=np.array([0, 0, 16]),
    )  # fmt: skip
    random = np.random.default_rng(3)
    feed: dict[str, Any] = {f"{name}0": random.standard_normal((1, 3, 16)).astype(np.float32) for name in "qkv"}
    feed |= {name: np.ones((1, 1, 3, 3), bool) for name in ("one", "two")}
    feed["one"][0, 0, :2] = feed["two"][0, 0, 1] = False
    (wanted,) = answers(artifact.path, feed)
    np.testing.assert_allclose(wanted[0, 0], feed["v0"][0].mean(0), rtol=1e-5)
    assert not wanted[0, 1].any()
    assert keeps_contract(FuseAttention(), artifact, feed).operators["MultiHeadAttention"] == 1
    assert not keeps_contract(FlattenAttention(), artifact, feed).modified
