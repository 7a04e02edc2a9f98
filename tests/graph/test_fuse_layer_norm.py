from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeai import modelfile
from edgeai.graph import FuseLayerNorm

_RANDOM = np.random.default_rng(2)
_X = {"x": _RANDOM.standard_normal((2, 3, 8)).astype(np.float32) * 3 + 1}
_CONSTANTS = {
    "g": _RANDOM.standard_normal(8).astype(np.float32),
    "b": _RANDOM.standard_normal(8).astype(np.float32),
    "wide": np.ones((2, 3, 8), np.float32),
    "one": np.float32(1).reshape(()),
    "two": np.float32(2).reshape(()),
    "eps": np.float32(1e-5).reshape(()),
    "last": np.array([-1]),
}
_MEAN = {17: "ReduceMean<axes = [-1]>({})", 18: "ReduceMean({}, last)", 23: "ReduceMean({}, last)"}
_NORM = "m = {mean_x} d = Sub(x, m) p = Pow(d, two) v = {mean_p} a = Add(v, eps) r = Sqrt(a)"
_BODY = "g (float[n, s, 8] x) => (float[n, s, 8] y) {{ {} }}"


def _write(write: Callable[..., Any], body: str, opset: int = 18) -> Any:
    means = {"mean_x": _MEAN[opset].format("x"), "mean_p": _MEAN[opset].format("p")}
    return write(_BODY.format(body.format(**means)), opset=opset, **_CONSTANTS)


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize(
    ("tail", "rest"),
    [
        ("q = Div(d, r) z = Mul(q, g) y = Add(z, b)", {}),
        ("q = Div(d, r) z = Mul(g, q) y = Relu(z)", {"Relu": 1}),
        ("i = Reciprocal(r) q = Mul(d, i) z = Mul(q, g) y = Add(b, z)", {}),
        ("i = Div(one, r) q = Mul(i, d) z = Mul(q, g) y = Add(z, b)", {}),
    ],
)
def test_every_spelling_becomes_one_operator(
    write: Callable[..., Any], keeps_contract: Callable[..., Any], tail: str, rest: dict[str, int], opset: int
) -> None:
    outcome = keeps_contract(FuseLayerNorm(), _write(write, f"{_NORM} {tail}", opset), _X)
    assert outcome.operators == {"LayerNormalization": 1, **rest}
    node = next(node for node in outcome.model.graph if node.op_type == "LayerNormalization")
    assert node.attributes.get_float("epsilon") == pytest.approx(1e-5)


def test_without_the_mean_it_is_rms_norm(write: Callable[..., Any], keeps_contract: Callable[..., Any]) -> None:
    body = "p = Mul(x, x) v = {mean_p} a = Add(eps, v) r = Sqrt(a) q = Div(x, r) y = Mul(q, g)"
    assert keeps_contract(FuseLayerNorm(), _write(write, body, 23), _X).operators == {"RMSNormalization": 1}
    assert not FuseLayerNorm()(modelfile.load(_write(write, body, 18).path)).modified, "an operator since opset 23"


@pytest.mark.parametrize(
    ("reason", "body"),
    [
        ("another mean is subtracted", _NORM.replace("Sub(x, m)", "Sub(x, one)") + " q = Div(d, r) y = Mul(q, g)"),
        ("it is cubed", _NORM.replace("Pow(d, two)", "Pow(d, one)") + " q = Div(d, r) y = Mul(q, g)"),
        ("the scale is as large as the input", _NORM + " q = Div(d, r) y = Mul(q, wide)"),
        ("nothing scales it", _NORM + " y = Div(d, r)"),
        ("something else is divided", _NORM + " q = Div(x, r) y = Mul(q, g)"),
        ("it is divided by another", _NORM + " q = Div(r, d) y = Mul(q, g)"),
    ],
)
def test_what_only_looks_like_it_is_left_alone(write: Callable[..., Any], reason: str, body: str) -> None:
    assert not FuseLayerNorm()(modelfile.load(_write(write, body).path)).modified, reason


def test_an_older_opset_has_no_such_operator(write: Callable[..., Any]) -> None:
    body = _NORM.format(mean_x=_MEAN[17].format("x"), mean_p=_MEAN[17].format("p")) + " q = Div(d, r) y = Mul(q, g)"
    artifact = write(_BODY.format(body), opset=13, **_CONSTANTS)
    assert not FuseLayerNorm()(modelfile.load(artifact.path)).modified
