"""Each method is better than round-to-nearest at what it is for."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeai.quantization.blocks import Grid, quantize_blocks
from edgeai.quantization.gptq import Gptq
from edgeai.quantization.half_quadratic import half_quadratic
from edgeai.quantization.k_quant import emphasis, k_quant
from edgeai.quantization.round_to_nearest import round_to_nearest

GRIDS = st.builds(Grid, st.sampled_from([4, 8]), st.sampled_from([16, 32, 64]), st.booleans())


def weight_and_inputs(seed: int, rows: int = 24, columns: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Heavy-tailed weights (N,K), and inputs (T,K) whose columns are correlated and of very different size."""
    random = np.random.default_rng(seed)
    weight = (random.standard_t(3, (rows, columns)) / 50).astype(np.float32)
    mixing = random.standard_normal((columns, columns)) * np.exp(random.standard_normal(columns))
    return weight, (random.standard_normal((400, columns)) @ mixing).astype(np.float32)


def rounded(weight: np.ndarray, grid: Grid, method: object) -> np.ndarray:
    return quantize_blocks(weight, grid, method, name="W")[0].dequantized(weight.shape[1])


@given(GRIDS, st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_k_quant_never_has_the_larger_weighted_error(grid: Grid, seed: int) -> None:
    weight, inputs = weight_and_inputs(seed)
    importance = np.square(inputs).mean(0).reshape(-1, grid.block_size)
    blocks = weight.reshape(len(weight), -1, grid.block_size)
    for chosen in (None, importance):
        weights = emphasis(blocks) * (1 if chosen is None else chosen)

        def error(method: object, weights: np.ndarray = weights) -> float:
            difference = (rounded(weight, grid, method) - weight).reshape(weights.shape)
            return float((weights * difference**2).sum())

        assert error(partial(k_quant, importance=chosen)) <= error(round_to_nearest) * (1 + 1e-5)


@given(GRIDS, st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_gptq_answers_closer_on_its_inputs(grid: Grid, seed: int) -> None:
    weight, inputs = weight_and_inputs(seed)
    gptq = Gptq(inputs.T @ inputs / len(inputs))
    nearest, made_up = (
        np.linalg.norm(inputs @ (rounded(weight, grid, method) - weight).T) for method in (round_to_nearest, gptq)
    )
    assert made_up < 0.9 * nearest


@given(GRIDS, st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_half_quadratic_has_the_smaller_p_norm(grid: Grid, seed: int) -> None:
    weight, _ = weight_and_inputs(seed)
    nearest, sparse = (
        (np.abs(rounded(weight, grid, method) - weight) ** 0.7).mean() for method in (round_to_nearest, half_quadratic)
    )
    assert sparse <= nearest * 1.001


def test_gptq_without_anything_seen_is_the_scale_search() -> None:
    weight, _ = weight_and_inputs(0)
    grid = Grid(4, 32, True)
    made_up, searched = (np.linalg.norm(rounded(weight, grid, m) - weight) for m in (Gptq(np.eye(128)), k_quant))
    assert made_up == pytest.approx(searched, rel=0.02)


@pytest.mark.parametrize("columns", [100, 128])
def test_gptq_with_dead_inputs_and_padding_stays_finite(columns: int) -> None:
    weight, inputs = weight_and_inputs(1, columns=columns)
    inputs[:, ::3] = 0
    result = rounded(weight, Grid(4, 32, False), Gptq(inputs.T @ inputs))
    assert np.isfinite(result).all()
    assert np.linalg.norm(result - weight) < np.linalg.norm(weight)
