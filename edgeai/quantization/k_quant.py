"""Search for the scale and the zero point of each block that leave the smallest weighted square error.

The idea is that of llama.cpp's k-quants: try ranges a little smaller and larger than the block's own, round, and
solve for the scale by weighted least squares, since the best scale for given codes has a closed form.
"""

from __future__ import annotations

import numpy as np

from edgeai.quantization.blocks import Blocks, Grid, codes_of, usable
from edgeai.quantization.round_to_nearest import full_range
from edgeai.spec import Array

# Range of the codes in steps, relative to the grid's own: 1 is round-to-nearest, less clips the farthest values.
_WIDTHS = (1.0, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.05, 1.1)


def k_quant(blocks: Array, grid: Grid, *, importance: Array | None = None) -> Blocks:
    """Blocks float32 (R,B,S) to codes; `importance` (B,S) weighs the columns, all alike without it.

    Never worse, in the weighted square error, than round-to-nearest.
    """
    unit = usable(np.abs(blocks).max(-1))  # squares of the values themselves may leave float32
    blocks = blocks / unit[:, :, None]
    weights = emphasis(blocks)
    if importance is not None:
        weights *= importance / (importance.max() or 1)
    weighted = blocks * weights
    scales, zero_points = full_range(blocks, grid)
    best_error = np.full(scales.shape, np.inf, np.float32)
    best_scales, best_zero_points = scales.copy(), zero_points.copy()
    best_codes = np.zeros(blocks.shape, np.uint8)
    for width in _WIDTHS:
        tried, zeros = scales * np.float32(width), zero_points
        if width != 1.0:
            tried, zeros = _refit(blocks, weighted, weights, tried, zeros, grid)
        codes = codes_of(blocks, tried, zeros, grid)
        steps = codes - zeros[:, :, None]
        if width != 1.0:
            tried = _least_squares(steps, weighted, weights, tried)
        # Of ||x - s u||^2 what depends on the choice.
        error = tried * (tried * _sum(steps * weights, steps) - 2 * _sum(steps, weighted))
        better = error < best_error
        best_error[better] = error[better]
        best_scales[better], best_zero_points[better] = tried[better], zeros[better]
        best_codes[better] = codes[better]
    return Blocks(best_codes, best_scales * unit, best_zero_points.astype(np.uint8))


def emphasis(blocks: Array) -> Array:
    """Weights of the squares: |x| + the block's root mean square, as in llama.cpp.

    Plain least squares shrinks every block (what it fits is shorter than what it fits to, by the error), and a
    language model of shrunken weights predicts too flatly: closer to the float model, and yet of worse perplexity.
    """
    root = np.sqrt(np.square(blocks).mean(-1, keepdims=True))
    found: Array = np.abs(blocks)
    found += np.where(root > 0, root, 1)
    return found


def _refit(
    blocks: Array, weighted: Array, weights: Array, scales: Array, zero_points: Array, grid: Grid
) -> tuple[Array, Array]:
    """Scale and zero point together by weighted least squares on the codes that these give."""
    codes = codes_of(blocks, scales, zero_points, grid)
    if grid.symmetric:
        return _least_squares(codes - grid.middle, weighted, weights, scales), zero_points
    total = weights.sum(-1)
    weighed = codes * weights
    mean_code, mean_value = weighed.sum(-1) / total, weighted.sum(-1) / total
    variance = _sum(weighed, codes) - total * mean_code**2
    covariance = _sum(codes, weighted) - total * mean_code * mean_value
    slope = np.where(variance > 0, covariance / np.where(variance > 0, variance, 1), scales)
    slope = np.where(slope > 0, usable(slope), scales).astype(np.float32)
    zeros = np.clip(np.rint(mean_code - mean_value / slope), 0, grid.top)
    return slope, zeros.astype(np.float32)


def _least_squares(steps: Array, weighted: Array, weights: Array, otherwise: Array) -> Array:
    """The scale (R,B) that brings scale * steps closest to the blocks; `otherwise` where all steps are 0."""
    squares = _sum(steps * weights, steps)
    found = _sum(steps, weighted) / np.where(squares > 0, squares, 1)
    return np.where((squares > 0) & (np.abs(found) > np.finfo(np.float32).tiny), found, otherwise).astype(np.float32)


def _sum(left: Array, right: Array) -> Array:
    products: Array = np.einsum("rbs,rbs->rb", left, right)
    return products
