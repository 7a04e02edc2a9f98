"""Round one column after another, and let the columns still to come make up for the error (GPTQ: Frantar et al. 2022).

What counts is not the weight's error but that of the layer's output on real inputs X (T,K), which the Gram matrix
X^T X measures. Scales are fixed beforehand, weighted by its diagonal, so the columns may come in the order of their
weight without an index from column to block, which ONNX Runtime's fast kernels do not take.
"""

from __future__ import annotations

import numpy as np

from edgeai.quantization.blocks import Blocks, Grid
from edgeai.quantization.k_quant import k_quant
from edgeai.spec import Array

_LAZY = 128  # columns after which the rest of the matrix learns of the errors, as one product


class Gptq:
    """Rounds any rows of a layer whose inputs have the Gram matrix `gram` (K,K), float32 or float64.

    `damping` is a share of the mean diagonal: what the samples have not shown is not certain to be zero.
    """

    def __init__(self, gram: Array, *, damping: float = 0.01) -> None:
        columns = len(gram)
        diagonal = np.diag(gram).astype(np.float64)
        mean = float(diagonal.mean()) or 1.0
        damped = gram.astype(np.float64)
        damped[np.diag_indices(columns)] += damping * mean + (diagonal == 0) * mean
        self._importance = np.diag(damped).astype(np.float32)
        self._order = np.argsort(-diagonal, kind="stable")
        # With the columns reversed, damped = R R^T for an upper R, whose inverse is the Cholesky factor of the inverse.
        backwards = self._order[::-1]
        lower = np.linalg.cholesky(damped[np.ix_(backwards, backwards)])
        self._factor = _inverse(lower)[::-1, ::-1].astype(np.float32)  # (K,K), upper triangular

    def __call__(self, blocks: Array, grid: Grid) -> Blocks:
        rows, count, size = blocks.shape
        columns = len(self._order)
        importance = np.zeros(count * size, np.float32)
        importance[:columns] = self._importance
        found = k_quant(blocks, grid, importance=importance.reshape(count, size))
        codes = found.codes.reshape(rows, -1).copy()
        zeros = found.zero_points.astype(np.float32)
        weight = blocks.reshape(rows, -1)[:, self._order].T.copy()  # (K,R): a column of the weight lies in one piece
        for start in range(0, columns, _LAZY):
            stop = min(start + _LAZY, columns)
            errors = np.empty((stop - start, rows), np.float32)
            for index in range(start, stop):
                column = self._order[index]
                scale, zero = found.scales[:, column // size], zeros[:, column // size]
                code = np.clip(np.rint(weight[index] / scale + zero), 0, grid.top)
                codes[:, column] = code
                error = (weight[index] - scale * (code - zero)) / self._factor[index, index]
                errors[index - start] = error
                weight[index + 1 : stop] -= self._factor[index, index + 1 : stop, None] * error
            weight[stop:] -= self._factor[start:stop, stop:].T @ errors
        return Blocks(codes.reshape(blocks.shape), found.scales, found.zero_points)


def _inverse(lower: Array) -> Array:
    """Of a lower triangular matrix, half by half: numpy's own inverse does not know of the zeros."""
    size = len(lower)
    if size <= _LAZY:
        inverse: Array = np.linalg.inv(lower)
        return inverse
    half = size // 2
    first, last = _inverse(lower[:half, :half]), _inverse(lower[half:, half:])
    corner = -last @ lower[half:, :half] @ first
    return np.block([[first, np.zeros((half, size - half))], [corner, last]])
