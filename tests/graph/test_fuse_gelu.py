from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeai import modelfile
from edgeai.graph import FuseGelu

_X = {"x": np.linspace(-6, 6, 24, dtype=np.float32).reshape(2, 12)}
_NUMBERS = {
    "root": np.sqrt(2), "inverse": np.sqrt(0.5), "one": 1, "half": 0.5, "two": 2, "three": 3, "c": 0.044715,
    "k": np.sqrt(2 / np.pi), "ck": 0.044715 * np.sqrt(2 / np.pi),
}  # fmt: skip
_CONSTANTS = {name: np.array(value, np.float32) for name, value in _NUMBERS.items()}
_ERF = {
    "torch.export": "d = Div(x, root) e = Erf(d) o = Add(e, one) h = Mul(half, o) y = Mul(x, h)",
    "torchscript": "d = Div(x, root) e = Erf(d) o = Add(e, one) h = Mul(x, o) y = Mul(h, half)",
    "half first": "d = Mul(inverse, x) e = Erf(d) o = Add(one, e) h = Mul(x, half) y = Mul(h, o)",
    "divided by two": "d = Mul(x, inverse) e = Erf(d) o = Add(e, one) h = Mul(o, x) y = Div(h, two)",
}
_CUBE = "q = Pow(x, three) r = Mul(q, c) i = Add(x, r) j = Mul(i, k)"
_TANH = {
    "gpt-2": f"{_CUBE} t = Tanh(j) o = Add(t, one) h = Mul(x, half) y = Mul(h, o)",
    "products": "p = Mul(x, x) q = Mul(p, x) r = Mul(c, q) i = Add(r, x) j = Mul(k, i) t = Tanh(j) o = Add(one, t) "
    "h = Mul(half, o) y = Mul(h, x)",
}
_BODY = "g (float[n, 12] x) => (float[n, 12] y) {{ {} }}"


@pytest.mark.parametrize("spelling", [*_ERF, *_TANH])
@pytest.mark.parametrize(("opset", "contrib"), [(20, False), (17, True)])
def test_every_spelling_becomes_one_operator(
    write: Callable[..., Any], keeps_contract: Callable[..., Any], spelling: str, opset: int, contrib: bool
) -> None:
    body = _BODY.format((_ERF | _TANH)[spelling])
    outcome = keeps_contract(FuseGelu(contrib=contrib), write(body, opset=opset, **_CONSTANTS), _X)
    name = "FastGelu" if contrib and spelling in _TANH else "Gelu"
    assert outcome.operators == {name: 1}
    if not contrib:
        (node,) = outcome.model.graph
        assert node.attributes.get_string("approximate") == ("tanh" if spelling in _TANH else "none")


def test_before_opset_20_nothing_standard_can_be_written(write: Callable[..., Any]) -> None:
    artifact = write(_BODY.format(_ERF["torchscript"]), opset=17, **_CONSTANTS)
    assert not FuseGelu()(modelfile.load(artifact.path)).modified
    assert FuseGelu(contrib=True).writes_contrib
    assert not FuseGelu().writes_contrib


@pytest.mark.parametrize(
    ("reason", "body"),
    [
        ("x is divided by 2", _ERF["torchscript"].replace("root", "two")),
        ("the factor is 2", _ERF["torchscript"].replace("half", "two")),
        ("2 is added", _ERF["torchscript"].replace("(e, one)", "(e, two)")),
        ("it is multiplied with something else", _ERF["torchscript"].replace("Mul(x, o)", "Mul(d, o)")),
        ("it is multiplied with x twice", _ERF["torchscript"].replace("Mul(h, half)", "Mul(h, x)")),
        ("the square of x is added", _TANH["gpt-2"].replace("three", "two")),
        ("the cube's factor is another", _TANH["gpt-2"].replace("c)", "k)")),
    ],
)
def test_what_only_looks_like_it_is_left_alone(write: Callable[..., Any], reason: str, body: str) -> None:
    artifact = write(_BODY.format(body), **_CONSTANTS)
    assert not FuseGelu()(modelfile.load(artifact.path)).modified, reason


def test_a_part_that_is_read_elsewhere_keeps_it_apart(write: Callable[..., Any]) -> None:
    body = _BODY.format(_ERF["torchscript"]).replace("y)", "y, float[n, 12] e)", 1)
    assert not FuseGelu()(modelfile.load(write(body, **_CONSTANTS).path)).modified
