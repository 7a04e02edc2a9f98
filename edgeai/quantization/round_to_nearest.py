"""Round to nearest: the range of a block, divided evenly. What every other method starts from and is measured by."""

from __future__ import annotations

import numpy as np

from edgeai.quantization.blocks import Blocks, Grid, codes_of, usable
from edgeai.spec import Array


def round_to_nearest(blocks: Array, grid: Grid) -> Blocks:
    """Blocks float32 (R,B,S) to codes, without looking at anything but the range."""
    scales, zero_points = full_range(blocks, grid)
    codes = codes_of(blocks, scales, zero_points, grid)
    return Blocks(codes.astype(np.uint8), scales, zero_points.astype(np.uint8))


def full_range(blocks: Array, grid: Grid) -> tuple[Array, Array]:
    """Scales and zero points float32 (R,B) that reach the farthest values of each block.

    Symmetric codes have one more step below zero than above: the value farthest from zero gets it, whatever its
    sign, by a scale that may be negative (as in llama.cpp's Q4_0).
    """
    low = np.minimum(blocks.min(-1), 0).astype(np.float64)
    high = np.maximum(blocks.max(-1), 0).astype(np.float64)
    if grid.symmetric:
        scales = usable(np.where(-low >= high, low, high) / -grid.middle)
        return scales, np.full_like(scales, grid.middle)
    scales = usable((high - low) / grid.top)
    return scales, np.clip(np.rint(-low / scales), 0, grid.top).astype(np.float32)
