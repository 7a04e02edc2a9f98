"""The contract over every pass of every form and a set of graphs: valid, equal in numbers, idempotent."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from edgeai.graph import FORMS

_RANDOM = np.random.default_rng(7)


def _floats(*shape: int) -> np.ndarray:
    return _RANDOM.standard_normal(shape).astype(np.float32)


GRAPHS = {
    "mlp": (
        "g (float[n, 8] x) => (float[n, 4] y) { h = Gemm<transB = 1>(x, W, b) r = Relu(h) y = MatMul(r, V) }",
        {"W": _floats(6, 8), "b": _floats(6), "V": _floats(6, 4)},
        {"x": _floats(3, 8)},
    ),
    "conv and batch norm": (
        """g (float[n, 3, 8, 8] x) => (float[n, 4, 6, 6] y) {
            h = Conv(x, W) n1 = BatchNormalization(h, s, b, m, v) y = Relu(n1) }""",
        {"W": _floats(4, 3, 3, 3), "s": _floats(4), "b": _floats(4), "m": _floats(4), "v": abs(_floats(4)) + 0.1},
        {"x": _floats(2, 3, 8, 8)},
    ),
    "tied head": (
        """g (int64[n] ids) => (float[n, 9] y) {
            e = Gather(E, ids) t = Transpose<perm = [1, 0]>(E) y = MatMul(e, t) }""",
        {"E": _floats(9, 8)},
        {"ids": np.array([0, 8, 3])},
    ),
    "subgraph": (
        """g (float[n, 8] x) => (float[n, 4] y) {
            s = ReduceSum<keepdims = 0>(x) c = Greater(s, zero)
            y = If(c) <then_branch = t () => (float[n, 4] p) { p = MatMul(x, W) },
                       else_branch = e () => (float[n, 4] q) { w = Transpose(V) q = MatMul(x, w) }> }""",
        {"zero": np.float32(0).reshape(()), "W": _floats(8, 4), "V": _floats(4, 8)},
        {"x": _floats(2, 8)},
    ),
    "identity to the output": (
        "g (float[n, 8] x) => (float[n, 8] y, float[n, 8] z) { y = Identity(x) h = Relu(x) z = Identity(h) }",
        {},
        {"x": _floats(2, 8)},
    ),
}


PASSES = {type(pass_).__name__: pass_ for form in FORMS.values() for pass_ in form.passes}


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("pass_", PASSES.values(), ids=PASSES.keys())
def test_every_pass_keeps_the_contract(
    pass_: ir.passes.PassBase, graph: str, write: Callable[..., object], keeps_contract: Callable[..., object]
) -> None:
    body, weights, feed = GRAPHS[graph]
    keeps_contract(pass_, write(body, **weights), feed)
