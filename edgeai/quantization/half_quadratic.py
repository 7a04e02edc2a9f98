"""Half-quadratic quantization: scale and zero point that leave a sparse error instead of a small square one.

The error is measured by its p-norm, p < 1, which forgives a few outliers for the sake of the rest, and split off by
a variable of its own, for which one shrinkage step is exact (HQQ: Badri and Shaji, 2023). Unlike there the scale is
fitted too, and the zero point ends as an integer: ONNX Runtime's fast kernels take no other.
"""

from __future__ import annotations

import numpy as np

from edgeai.quantization.blocks import Blocks, Grid, codes_of, usable
from edgeai.quantization.round_to_nearest import full_range
from edgeai.spec import Array

_P = 0.7
_BETA, _GROWTH, _ITERATIONS = 10.0, 1.05, 10
_SMALLEST = np.float32(1e-4)  # of a step: its power with a negative exponent must stay finite


def half_quadratic(blocks: Array, grid: Grid) -> Blocks:
    """Blocks float32 (R,B,S) to codes. Of all iterations each block keeps the one of the smallest p-norm."""
    scales, zeros = full_range(blocks, grid)
    best_scales, best_zeros = scales, zeros
    best_norm = np.full(scales.shape, np.inf, np.float32)
    beta = _BETA
    for _ in range(_ITERATIONS):
        rounded = zeros if grid.symmetric else np.clip(np.rint(zeros), 0, grid.top)
        codes = codes_of(blocks, scales, rounded, grid)
        values = blocks / scales[:, :, None]  # in steps, so that one beta fits every block
        residual = codes - rounded[:, :, None]
        np.subtract(values, residual, out=residual)
        size = np.abs(residual)
        slope = np.maximum(size, _SMALLEST) ** np.float32(_P - 1)
        norm = (size * slope).sum(-1) * np.abs(scales) ** np.float32(_P)
        better = norm < best_norm
        best_norm = np.where(better, norm, best_norm)
        best_scales, best_zeros = np.where(better, scales, best_scales), np.where(better, rounded, best_zeros)
        size -= slope / np.float32(beta)
        values -= np.copysign(np.maximum(size, 0, out=size), residual)  # outliers have gone to the other variable
        if not grid.symmetric:
            zeros = (codes - values).mean(-1)
        steps = codes - (rounded if grid.symmetric else zeros)[:, :, None]
        squares = np.einsum("rbs,rbs->rb", steps, steps)
        factor = np.einsum("rbs,rbs->rb", steps, values) / np.where(squares > 0, squares, 1)
        scales = usable(np.where(factor > 0, scales * factor, scales))
        beta *= _GROWTH
    codes = codes_of(blocks, best_scales, best_zeros, grid)
    return Blocks(codes.astype(np.uint8), best_scales, best_zeros.astype(np.uint8))
