"""One product for query, key and value, or three: both ways, from every spelling of the parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeai import modelfile
from edgeai.graph import PackQKV, SeparateQKV, SplitHeads

_RANDOM = np.random.default_rng(5)
_W, _B = _RANDOM.standard_normal((8, 12)).astype(np.float32), _RANDOM.standard_normal(12).astype(np.float32)
_X = {"x": _RANDOM.standard_normal((2, 3, 8)).astype(np.float32)}

_OUTPUTS = "float[b, s, 4] q, float[b, s, 4] k, float[b, s, 4] v"
_SPLIT = f"g (float[b, s, 8] x) => ({_OUTPUTS}) {{ m = MatMul(x, W) p = Add(m, B) q, k, v = Split<axis = -1%s>(p%s) }}"
_VIEW = """g (float[b, s, 8] x) => (float[b, 2, s, 2] q, float[b, 2, s, 2] k, float[b, 2, s, 2] v) {
    m = MatMul(x, W) p = Add(B, m) w = Reshape(p, five) t = Transpose<perm = [2, 0, 3, 1, 4]>(w) %s }"""
_PARTS = {
    "gather": " ".join(f"{name} = Gather<axis = 0>(t, i{i})" for i, name in enumerate("qkv")),
    "split": "a, b, c = Split<axis = 0, num_outputs = 3>(t) "
    + " ".join(f"{name} = Squeeze({part}, zero)" for name, part in zip("qkv", "abc", strict=True)),
    "slice": " ".join(
        f"s{i} = Slice(t, j{i}, j{i + 1}, zero) {name} = Squeeze(s{i}, zero)" for i, name in enumerate("qkv")
    ),
}
_INDICES = {f"i{i}": np.int64(i).reshape(()) for i in range(3)} | {f"j{i}": np.array([i]) for i in range(4)}
_CONSTANTS = {"five": np.array([0, 0, 3, 2, 2]), "zero": np.array([0]), **_INDICES}


@pytest.mark.parametrize("parts", _PARTS)
def test_a_packed_view_becomes_a_split(
    write: Callable[..., Any], keeps_contract: Callable[..., Any], parts: str
) -> None:
    artifact = write(_VIEW % _PARTS[parts], W=_W, B=_B, **_CONSTANTS)
    outcome = keeps_contract(SplitHeads(), artifact, _X)
    assert outcome.operators["Split"] == 1
    assert outcome.operators["Squeeze"] == outcome.operators["Gather"] == outcome.operators["Slice"] == 0


def test_slices_that_cover_the_last_axis_become_a_split(
    write: Callable[..., Any], keeps_contract: Callable[..., Any]
) -> None:
    body = f"""g (float[b, s, 8] x) => ({_OUTPUTS}) {{ p = MatMul(x, W)
        q = Slice(p, n0, n4, last) k = Slice(p, n4, n8, last) v = Slice(p, n8, n12, last) }}"""
    numbers = {f"n{n}": np.array([n]) for n in (0, 4, 8, 12)} | {"last": np.array([-1])}
    outcome = keeps_contract(SplitHeads(), write(body, W=_W, **numbers), _X)
    assert outcome.operators == {"MatMul": 1, "Split": 1}
    gap = write(body.replace("n4, n8", "n4, n4"), W=_W, **numbers)
    assert not SplitHeads()(modelfile.load(gap.path)).modified, "a part is missing"


@pytest.mark.parametrize(("attribute", "sizes"), [(", num_outputs = 3", ""), ("", ", widths")])
def test_a_split_product_becomes_three(
    write: Callable[..., Any], keeps_contract: Callable[..., Any], attribute: str, sizes: str
) -> None:
    artifact = write(_SPLIT % (attribute, sizes), W=_W, B=_B, widths=np.array([4, 4, 4]))
    outcome = keeps_contract(SeparateQKV(), artifact, _X)
    assert outcome.operators == {"MatMul": 3, "Add": 3}
    assert [value.name for value in outcome.model.graph.outputs] == ["q", "k", "v"]
    assert "W" not in outcome.model.graph.initializers


@pytest.mark.parametrize(
    ("reason", "body"),
    [
        ("the product is read elsewhere", _SPLIT.replace("v)", "v, float[b, s, 12] p)", 1)),
        ("another axis is split", _SPLIT.replace("axis = -1", "axis = 1")),
        ("the weight is not constant", _SPLIT.replace("float[b, s, 8] x", "float[b, s, 8] x, float[8, 12] W")),
        ("the bias is not one number a column", _SPLIT.replace("Add(m, B)", "Add(m, row)")),
    ],
)
def test_a_split_that_has_to_stay(write: Callable[..., Any], reason: str, body: str) -> None:
    row = np.ones((1, 12), np.float32)
    artifact = write(body % (", num_outputs = 3", ""), W=_W, B=_B, row=row)
    assert not SeparateQKV()(modelfile.load(artifact.path)).modified, reason


_THREE = """g (float[b, s, 8] x) => (float[b, s, 4] q, float[b, s, 4] k, float[b, s, 8] v) {
    q0 = MatMul(x, Q) k0 = MatMul(x, K) v0 = MatMul(x, V) q = Add(q0, a) k = Add(c, k0) v = Add(v0, d) }"""
_PIECES = {"Q": _W[:, :4], "K": _W[:, 4:8], "V": _RANDOM.standard_normal((8, 8)).astype(np.float32)}
_BIASES = {"a": _B[:4], "c": _B[4:8], "d": np.ones(8, np.float32)}


def test_products_of_one_input_become_one(write: Callable[..., Any], keeps_contract: Callable[..., Any]) -> None:
    artifact = write(_THREE, **{name: array.copy() for name, array in (_PIECES | _BIASES).items()})
    outcome = keeps_contract(PackQKV(), artifact, _X)
    assert outcome.operators == {"MatMul": 1, "Add": 1, "Split": 1}
    back = SeparateQKV()(outcome.model)
    assert back.modified, "one undoes the other"


@pytest.mark.parametrize(
    ("reason", "body"),
    [
        ("the inputs differ", _THREE.replace("{", "{ k1 = Relu(x) v1 = Exp(x) ")
         .replace("MatMul(x, K)", "MatMul(k1, K)").replace("MatMul(x, V)", "MatMul(v1, V)")),
        ("the weights are no constants", "g (float[b, 8] x, float[8, 4] Q, float[8, 4] K) => (float[b, 4] q, "
         "float[b, 4] k) { q = MatMul(x, Q) k = MatMul(x, K) }"),
    ],
)  # fmt: skip
def test_products_that_stay_apart(write: Callable[..., Any], reason: str, body: str) -> None:
    artifact = write(body, **{name: array.copy() for name, array in (_PIECES | _BIASES).items()})
    assert not PackQKV()(modelfile.load(artifact.path)).modified, reason
