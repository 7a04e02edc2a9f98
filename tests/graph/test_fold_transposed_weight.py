from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeai import modelfile
from edgeai.graph import FoldTransposedWeight

_E = np.random.default_rng(0).standard_normal((9, 8)).astype(np.float32)
_X = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)


def test_the_tied_head_gets_a_weight_and_the_embedding_keeps_its_own(
    write: Callable[..., Any], keeps_contract: Callable[..., Any]
) -> None:
    artifact = write(
        "g (int64[n] ids) => (float[n, 9] y) { e = Gather(E, ids) t = Transpose<perm = [1, 0]>(E) y = MatMul(e, t) }",
        E=_E,
    )
    outcome = keeps_contract(FoldTransposedWeight(), artifact, {"ids": np.array([0, 8, 3])})
    assert outcome.modified
    assert outcome.operators == {"Gather": 1, "MatMul": 1}
    constants = outcome.model.graph.initializers
    np.testing.assert_array_equal(constants["E"].const_value.numpy(), _E)
    np.testing.assert_array_equal(constants["E_transposed"].const_value.numpy(), _E.T)


def test_one_transpose_for_many_is_folded_once_and_a_taken_name_is_left_alone(
    write: Callable[..., Any], keeps_contract: Callable[..., Any]
) -> None:
    artifact = write(
        """g (float[n, 8] x) => (float[n, 9] y) {
            t = Transpose(E) E_transposed = MatMul(x, t) g1 = Gemm(x, t, c) y = Add(E_transposed, g1) }""",
        E=_E,
        c=np.ones(9, np.float32),
    )
    outcome = keeps_contract(FoldTransposedWeight(), artifact, {"x": _X})
    assert outcome.operators == {"MatMul": 1, "Gemm": 1, "Add": 1}
    assert sorted(outcome.model.graph.initializers) == ["E_transposed_1", "c"], "nobody needs E any more"


def test_a_transpose_that_a_caller_reads_stays(write: Callable[..., Any], keeps_contract: Callable[..., Any]) -> None:
    artifact = write("g (float[n, 8] x) => (float[n, 9] y, float[8, 9] t) { t = Transpose(E) y = MatMul(x, t) }", E=_E)
    assert keeps_contract(FoldTransposedWeight(), artifact, {"x": _X}).operators == {"Transpose": 1, "MatMul": 1}


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("g (float[n, 8] x, float[9, 8] E) => (float[n, 9] y) { t = Transpose(E) y = MatMul(x, t) }", "overridable"),
        ("g (float[n, 8] x) => (float[8, 9] y) { t = Transpose(E) y = Relu(t) }", "no product uses it"),
        ("g (float[n, 9] x) => (float[9, 8] y) { t = Transpose(E) y = MatMul(t, x) }", "it is the first factor"),
    ],
)
def test_what_is_no_constant_second_factor_is_left_alone(write: Callable[..., Any], body: str, why: str) -> None:
    artifact = write(body, E=_E)
    assert not FoldTransposedWeight()(modelfile.load(artifact.path)).modified, why


def test_a_fold_that_left_something_is_caught_by_its_own_postcondition(write: Callable[..., Any]) -> None:
    artifact = write("g (float[n, 8] x) => (float[n, 9] y) { t = Transpose(E) y = MatMul(x, t) }", E=_E)

    class Lazy(FoldTransposedWeight):
        def call(self, model: ir.Model) -> ir.passes.PassResult:
            return ir.passes.PassResult(model, modified=False)

    with pytest.raises(ir.passes.PostconditionError, match="a transposed constant weight is left"):
        Lazy()(modelfile.load(artifact.path))
