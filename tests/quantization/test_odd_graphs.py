"""Graphs that are rare and legal: every recipe answers rightly, or refuses with a typed error that is expected."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edgeai.artifact import Artifact
from edgeai.errors import QuantizationError
from edgeai.quantization import RECIPES, quantize
from edgeai.samples import Samples
from edgeai.spec import Array, Feed

_RANDOM = np.random.default_rng(0)
_TOLERANCE = {"int4-weight": 0.3, "fp16": 0.01, "bf16": 0.05}


def _floats(*shape: int) -> Array:
    return _RANDOM.standard_normal(shape).astype(np.float32)


@dataclass(frozen=True)
class Odd:
    """`refused`: the recipes that do not apply, for a reason that is theirs and not this graph's oddity."""

    body: str
    weights: Mapping[str, Array]
    feeds: tuple[Feed, ...]
    refused: tuple[str, ...] = ()


_ROWS = tuple({"x": _floats(n, 32)} for n in (3, 8, 5))
_W, _V = _floats(32, 32) / 4, _floats(32, 32) / 4
_STEPS = {"trip": np.array(3), "yes": np.array(True)}

ODD = {
    "one weight in two products, one of them transposed": Odd(
        "g (float[n, 32] x) => (float[n, 32] y) { a = MatMul(x, W) r = Relu(a) y = Gemm<transB = 1>(r, W) }",
        {"W": _W}, _ROWS,
    ),
    "a weight that is an output too": Odd(
        "g (float[n, 32] x) => (float[n, 32] y, float[32, 32] W) { y = MatMul(x, W) }", {"W": _W}, _ROWS, ("bf16",)
    ),
    "a square table that is looked up and multiplied with as it stands": Odd(
        """g (float[n, 32] x, int64[n] ids) => (float[n, 32] y) {
            e = Gather(E, ids) s = Add(x, e) y = MatMul(s, E) }""",
        {"E": _W}, tuple({**feed, "ids": np.arange(len(feed["x"]))} for feed in _ROWS),
    ),
    "a weight of rank 1": Odd(
        "g (float[n, 32] x) => (float[n] y) { h = MatMul(x, W) y = MatMul(h, v) }", {"W": _W, "v": _floats(32)}, _ROWS
    ),
    "Gemm that transposes its activations": Odd(
        "g (float[32, n] x) => (float[n, 32] y) { h = Gemm<transA = 1>(x, W, b) r = Relu(h) y = MatMul(r, V) }",
        {"W": _W, "V": _V, "b": _floats(32)}, tuple({"x": feed["x"].T.copy()} for feed in _ROWS),
    ),
    "Gemm that scales what it computes and what it is given": Odd(
        """g (float[n, 32] x, float[n, 32] c) => (float[n, 32] y) {
            h = Gemm<alpha = 0.5, beta = 2.0>(x, W, c) y = MatMul(h, V) }""",
        {"W": _W, "V": _V}, tuple({"x": feed["x"], "c": feed["x"] / 3} for feed in _ROWS),
    ),
    "a grouped convolution that pads by itself": Odd(
        """g (float[n, 16, 9, 9] x) => (float[n, 16, 5, 5] y) {
            h = Conv<auto_pad = "SAME_UPPER", group = 2, strides = [2, 2]>(x, K, b) y = Relu(h) }""",
        {"K": _floats(16, 8, 3, 3), "b": _floats(16)}, ({"x": _floats(1, 16, 9, 9)}, {"x": _floats(3, 16, 9, 9)}),
        ("int8-dynamic",),
    ),
    "a weight that the main graph and a Loop share": Odd(
        """g (float[n, 32] x) => (float[n, 32] y, float[n, 32] z, float[k, n, 32] all) {
            z = MatMul(x, W)
            y, all = Loop(trip, yes, x) <body = b (int64 i, bool c, float[n, 32] s)
                => (bool d, float[n, 32] t, float[n, 32] o) {
                d = Identity(c) h = MatMul(s, W) t = Tanh(h) o = MatMul(t, V) }> }""",
        {"W": _W, "V": _V, **_STEPS}, _ROWS,
    ),
    "one constant as weight and as bias": Odd(
        "g (float[32, 32] x) => (float[32, 32] y) { h = Gemm(x, W, W) y = Relu(h) }",
        {"W": _W}, tuple({"x": _floats(32, 32)} for _ in range(3)),
    ),
    "two outputs with one value": Odd(
        "g (float[n, 32] x) => (float[n, 32] y, float[n, 32] z) { y = MatMul(x, W) z = Identity(y) }", {"W": _W}, _ROWS
    ),
    "an input without rows": Odd(
        "g (float[n, 32] x, float[m, 32] p) => (float[k, 32] y) { c = Concat<axis = 0>(p, x) y = MatMul(c, W) }",
        {"W": _W}, tuple({"x": feed["x"], "p": _floats(0, 32)} for feed in _ROWS),
    ),
    "two LSTMs with the same weights": Odd(
        """g (float[t, n, 32] x) => (float[t, n, 32] y) {
            h = LSTM<hidden_size = 32>(x, W, R) s = Squeeze(h, one)
            k = LSTM<hidden_size = 32>(s, W, R) y = Squeeze(k, one) }""",
        {"W": _floats(1, 128, 32) / 6, "R": _floats(1, 128, 32) / 6, "one": np.array([1])},
        tuple({"x": _floats(t, 2, 32)} for t in (3, 8)), ("int8-static",),
    ),
    "quantized already": Odd(
        """g (float[n, 32] x) => (float[n, 32] y) {
            q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = MatMul(d, W) }""",
        {"W": _W, "s": np.array(0.03, np.float32), "z": np.array(128, np.uint8)}, _ROWS, tuple(RECIPES),
    ),
}  # fmt: skip


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_on_an_odd_graph(
    name: str, odd: Odd, write: Callable[..., Artifact], answers: Callable[..., list[Array]], tmp_path: Path
) -> None:
    artifact, samples = write(odd.body, **odd.weights), Samples.from_feeds(list(odd.feeds))
    out = tmp_path / "q.onnx"
    if name in odd.refused:
        with pytest.raises(QuantizationError):
            quantize(artifact, RECIPES[name](), samples=samples, out=out)
        assert not out.exists()
        return
    quantize(artifact, RECIPES[name](), samples=samples, out=out)
    for feed in odd.feeds:
        for want, got in zip(answers(artifact.path, feed), answers(out, feed), strict=True):
            assert want.shape == got.shape
            assert np.linalg.norm(got - want) <= _TOLERANCE.get(name, 0.06) * np.linalg.norm(want)
