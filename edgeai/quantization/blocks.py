"""Weights as blocks of small unsigned integers, laid out as MatMulNBits and GatherBlockQuantized read them.

Letters in the shape comments: N rows (output features, or words of an embedding), K columns, S the block size,
B = ceil(K / S) blocks in a row. What stands beyond K is padding and worth 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgeai.errors import QuantizationError
from edgeai.spec import Array

_KEEP = "keep its node in float: exclude=(...)"
_CHUNK = 1 << 18  # elements of a weight that are rounded at a time: what a method needs for itself stays in the cache


@dataclass(frozen=True)
class Grid:
    """What a block may hold: codes 0..`top`. If `symmetric`, every zero point is `middle` and is not stored."""

    bits: int
    block_size: int
    symmetric: bool

    @property
    def top(self) -> int:
        return (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        return 1 << (self.bits - 1)

    def size_bytes(self, rows: int, columns: int) -> int:
        """Stored size of a weight (rows, columns): codes, float32 scales, zero points."""
        blocks = -(-columns // self.block_size)
        zero_points = 0 if self.symmetric else -(-blocks * self.bits // 8)
        return rows * (blocks * self.block_size * self.bits // 8 + 4 * blocks + zero_points)


@dataclass(frozen=True)
class Blocks:
    """weight ~ scales * (codes - zero_points).

    `codes` uint8 (N,B,S), `scales` float32 (N,B), `zero_points` uint8 (N,B).
    """

    codes: Array
    scales: Array
    zero_points: Array

    def dequantized(self, columns: int) -> Array:
        """float32 (N, columns), as ONNX Runtime's kernels compute it."""
        steps = self.codes.astype(np.float32) - self.zero_points[:, :, None]
        return (steps * self.scales[:, :, None]).reshape(len(steps), -1)[:, :columns]


# Blocks float32 (R,B,S) of R of the rows to their codes.
Rounding = Callable[[Array, Grid], Blocks]


def quantize_blocks(weight: Array, grid: Grid, rounding: Rounding, *, name: str) -> tuple[Blocks, float]:
    """Round a float32 matrix (N,K) on `grid`; also its relative error, ||weight - rounded|| / ||weight||.

    Rows are independent and taken a few at a time, so `weight` may be a transposed view and is never copied whole.
    Raises QuantizationError if it holds NaN or infinity, or differences that float32 cannot hold.
    """
    rows, columns = weight.shape
    blocks = -(-columns // grid.block_size)
    codes = np.empty((rows, blocks, grid.block_size), np.uint8)
    scales, zero_points = np.empty((rows, blocks), np.float32), np.empty((rows, blocks), np.uint8)
    step = max(1, _CHUNK // (blocks * grid.block_size))
    error = norm = 0.0
    for start in range(0, rows, step):
        part = np.zeros((min(step, rows - start), blocks * grid.block_size), np.float32)
        part[:, :columns] = weight[start : start + step]
        if not np.isfinite(part).all():
            raise QuantizationError(f"weight {name} holds NaN or infinity", hint=_KEEP)
        norm += float(np.vdot(part, part))
        done = rounding(part.reshape(-1, blocks, grid.block_size), grid)
        codes[start : start + step] = done.codes
        scales[start : start + step], zero_points[start : start + step] = done.scales, done.zero_points
        part -= done.dequantized(part.shape[1])
        error += float(np.vdot(part, part))
    if not np.isfinite(scales).all():
        raise QuantizationError(f"weight {name} spans more than float32 holds", hint=_KEEP)
    return Blocks(codes, scales, zero_points), (error / norm) ** 0.5 if norm else 0.0


def pack(codes: Array, bits: int) -> Array:
    """Codes (..., n) of 4 or 8 bits to bytes (..., ceil(n * bits / 8)), the first in the low half of its byte."""
    if bits == 8:
        return codes
    if codes.shape[-1] % 2:
        codes = np.concatenate([codes, np.zeros_like(codes[..., :1])], axis=-1)
    packed: Array = codes[..., ::2] | (codes[..., 1::2] << 4)
    return packed


def unpack(packed: Array, bits: int, count: int) -> Array:
    """The first `count` codes of each row of bytes: what `pack` packed."""
    if bits == 8:
        return packed[..., :count]
    codes = np.stack([packed & 0xF, packed >> 4], axis=-1)
    return codes.reshape(*packed.shape[:-1], -1)[..., :count]


def usable(scales: Array) -> Array:
    """As float32; another where a scale is too small to divide by: such a block is constant 0.

    A small one: kernels subtract the zero point after they have summed, and what is lost there is multiplied by it.
    """
    scales = np.asarray(scales, np.float64)
    with np.errstate(over="ignore"):  # refused by name when the weight is done
        kept: Array = np.where(np.abs(scales) < np.finfo(np.float32).tiny, 2.0**-32, scales).astype(np.float32)
    return kept


def codes_of(blocks: Array, scales: Array, zero_points: Array, grid: Grid) -> Array:
    """The nearest codes, still as float32 (R,B,S): a method computes with them before it stores them."""
    found = blocks * (np.float32(1) / scales)[:, :, None]
    found += zero_points[:, :, None]
    np.rint(found, out=found)
    return np.clip(found, 0, grid.top, out=found)
