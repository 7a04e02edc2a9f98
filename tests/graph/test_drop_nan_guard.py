"""The guard against NaN goes where nothing that is added to the scores can make one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeai import modelfile
from edgeai.graph import DropNaNGuard, optimize

from .conftest import answers, operators

_RANDOM = np.random.default_rng(7)
_GUARDED = """g (float[b, 2, s, 8] q, float[b, 2, s, 8] k, float[b, 2, s, 8] v, %s) => (float[b, 2, s, 8] y) {
    t = Transpose<perm = [0, 1, 3, 2]>(k) s0 = MatMul(q, t) s1 = Add(s0, %s) p = Softmax(s1)
    n = IsNaN(p) z = Where(n, zero, p) y = MatMul(z, v) }"""
_HEADS = {name: _RANDOM.standard_normal((2, 2, 3, 8)).astype(np.float32) for name in "qkv"}
_ZERO = {"zero": np.float32(0).reshape(())}
_LOWEST = np.array(np.finfo(np.float32).min)


def test_what_the_exporter_writes_around_a_masked_attention_goes(
    attention: Callable[..., Any], keeps_contract: Callable[..., Any]
) -> None:
    artifact = attention("sdpa", "row", "chunk", "dynamo", 20)
    assert "IsNaN" in {node.op_type for node in modelfile.load(artifact.path).graph}
    feed = {"x": _RANDOM.standard_normal((2, 5, 16)).astype(np.float32), "seen": np.ones((2, 5), np.int64)}
    feed["seen"][1, 3:] = 0
    outcome = keeps_contract(DropNaNGuard(), artifact, feed)
    assert outcome.modified
    assert outcome.operators["IsNaN"] == 0
    assert outcome.operators["Softmax"] == 1


def test_a_mask_that_a_caller_gives_may_be_infinite(write: Callable[..., Any]) -> None:
    artifact = write(_GUARDED % ("float[b, 1, s, s] mask", "mask"), **_ZERO)
    assert not DropNaNGuard()(modelfile.load(artifact.path)).modified


_MASKED = _GUARDED.replace("s1 =", "m = Where(seen, zero, low) s1 =") % ("bool[b, 1, s, s] seen", "m")


@pytest.mark.parametrize(("low", "goes"), [(-np.inf, False), (float(np.finfo(np.float32).min), True)])
def test_a_mask_of_minus_infinity_keeps_its_guard(
    write: Callable[..., Any], keeps_contract: Callable[..., Any], low: float, goes: bool
) -> None:
    artifact = write(_MASKED, low=np.float32(low).reshape(()), **_ZERO)
    seen = np.ones((2, 1, 3, 3), bool)
    seen[0, 0, 1] = False
    if not goes:
        assert not DropNaNGuard()(modelfile.load(artifact.path)).modified
        return
    assert keeps_contract(DropNaNGuard(), artifact, {**_HEADS, "seen": seen}).operators["IsNaN"] == 0


def test_two_masks_that_overflow_together_keep_it(write: Callable[..., Any]) -> None:
    artifact = write(_MASKED.replace("s1 = Add(s0, m)", "s2 = Add(s0, m) s1 = Add(s2, m)"), low=_LOWEST, **_ZERO)
    feed = {**_HEADS, "seen": np.zeros((2, 1, 3, 3), bool)}
    assert not answers(artifact.path, feed)[0].any(), "the guard is what makes these zeros"
    assert not DropNaNGuard()(modelfile.load(artifact.path)).modified


def test_half_precision_overflows_with_a_score_and_keeps_it(write: Callable[..., Any]) -> None:
    """Not to be seen on the CPU provider, which computes it in float32."""
    numbers = {"zero": np.zeros((), np.float16), "low": np.array(np.finfo(np.float16).min)}
    assert not DropNaNGuard()(modelfile.load(write(_MASKED.replace("float[", "float16["), **numbers).path)).modified


def test_what_is_made_for_openvino_has_none(attention: Callable[..., Any], tmp_path: Path) -> None:
    artifact = attention("sdpa", "row", "chunk", "dynamo", 20)
    found = {
        target: operators(modelfile.load(optimize(artifact, out=tmp_path / target, target=target).path))
        for target in ("openvino", "portable")
    }
    assert (found["openvino"]["IsNaN"], found["openvino"]["Split"], found["openvino"]["Softmax"]) == (0, 0, 1)
    assert found["portable"]["IsNaN"] == 1, "it was not measured to gain anything elsewhere"
