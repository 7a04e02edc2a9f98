from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeai import modelfile
from edgeai.graph import FoldBatchNorm

_RANDOM = np.random.default_rng(3)
_NORM = "BatchNormalization<epsilon = 0.01>(h, s, b, m, v)"


def _floats(*shape: int) -> np.ndarray:
    return _RANDOM.standard_normal(shape).astype(np.float32)


def _parameters(channels: int = 4) -> dict[str, np.ndarray]:
    return {
        "s": _floats(channels),
        "b": _floats(channels),
        "m": _floats(channels),
        "v": np.abs(_floats(channels)) + 0.1,
    }


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("group", [1, 2])
def test_the_norm_goes_into_weight_and_bias(
    write: Callable[..., Any], keeps_contract: Callable[..., Any], bias: bool, group: int
) -> None:
    inputs = "x, W, c" if bias else "x, W"
    weights = {"W": _floats(4, 4 // group, 3, 3)} | ({"c": _floats(4)} if bias else {})
    artifact = write(
        f"g (float[n, 4, 8, 8] x) => (float[n, 4, 6, 6] y) {{ h = Conv<group = {group}>({inputs}) y = {_NORM} }}",
        **weights,
        **_parameters(),
    )
    outcome = keeps_contract(FoldBatchNorm(), artifact, {"x": _floats(2, 4, 8, 8)})
    assert outcome.modified
    assert outcome.operators == {"Conv": 1}
    assert [value.name for value in outcome.model.graph.outputs] == ["y"]
    assert not {"s", "b", "m", "v"} & outcome.model.graph.initializers.keys()


def test_a_weight_that_two_convolutions_share_is_folded_for_one_of_them(
    write: Callable[..., Any], keeps_contract: Callable[..., Any]
) -> None:
    artifact = write(
        f"""g (float[n, 4, 8, 8] x) => (float[n, 4, 6, 6] z) {{
            h = Conv(x, W) y = {_NORM} r = Conv(x, W) z = Add(y, r) }}""",
        W=_floats(4, 4, 3, 3),
        **_parameters(),
    )
    assert keeps_contract(FoldBatchNorm(), artifact, {"x": _floats(1, 4, 8, 8)}).operators == {"Conv": 2, "Add": 1}


@pytest.mark.parametrize(
    ("reason", "body", "changed"),
    [
        ("the value before it is read", f"h = Conv(x, W) y = {_NORM} r = Relu(h) y2 = Add(y, r)", {}),
        ("the value before it is an output", f"y2 = Conv(x, W) h = Identity(y2) y = {_NORM}", {}),
        ("it follows no Conv", f"h = Relu(x) y2 = {_NORM}", {}),
        (
            "it is in training mode",
            "h = Conv(x, W) y2, rm, rv = BatchNormalization<training_mode = 1>(h, s, b, m, v)",
            {},
        ),
        ("its parameters are not constant", "k = Mul(s, s) h = Conv(x, W) y2 = BatchNormalization(h, k, b, m, v)", {}),
        ("its variance is negative", f"h = Conv(x, W) y2 = {_NORM}", {"v": np.full(4, -1, np.float32)}),
        ("the Conv's bias is not constant", f"k = Mul(s, s) h = Conv(x, W, k) y2 = {_NORM}", {}),
    ],
)
def test_left_alone_because(write: Callable[..., Any], reason: str, body: str, changed: dict[str, Any]) -> None:
    weights = {"W": _floats(4, 4, 3, 3), **_parameters(), **changed}
    artifact = write(f"g (float[n, 4, 8, 8] x) => (float[n, 4, p, q] y2) {{ {body} }}", **weights)
    assert not FoldBatchNorm()(modelfile.load(artifact.path)).modified, reason
