"""Integer weights, float activations: what the recipes for four and for eight bits share.

Products with a matrix, in bodies too, become MatMulNBits. Other weights (LSTM, GRU, Conv, stacks of matrices) have no
such kernels: they are stored in eight bits, a scale for each channel, and multiplied as floats.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from edgeai.errors import QuantizationError, UsageError
from edgeai.quantization.block_writer import BlockWriter
from edgeai.quantization.blocks import Grid, Rounding, quantize_blocks
from edgeai.quantization.gptq import Gptq
from edgeai.quantization.half_quadratic import half_quadratic
from edgeai.quantization.k_quant import k_quant
from edgeai.quantization.layers import Matrix, find_matrices
from edgeai.quantization.moments import second_moments
from edgeai.quantization.preparation import refuse_weightless
from edgeai.quantization.recipe import Applied, Setting, without
from edgeai.quantization.round_to_nearest import round_to_nearest
from edgeai.quantization.stored_weights import storable, store_weights
from edgeai.quantization.tidying import tidy
from edgeai.spec import Array

Method = Literal["rtn", "k-quant", "hqq", "gptq"]

_UNSEEN = 0.01  # of the mean: a column that the samples never used may be used yet
_BLOCK_SIZES = (16, 32, 64, 128, 256)
_ACCURACY_LEVELS = (0, 4)


@dataclass(frozen=True)
class WeightOnly(abc.ABC):
    """What the weight-only recipes share; they differ in `bits` and in their defaults.

    `method`: rtn rounds to nearest; k-quant searches scales, weighted by the samples' activations if there are any;
    hqq fits them to a sparse error; gptq needs samples and makes up for each column's error in the columns after it.
    A zero point for each block (not `symmetric`) brings weights closer, and its kernels are some 20 % slower.
    `accuracy_level` 4 lets ONNX Runtime round activations to int8, block by block, while it multiplies; 0 does not,
    and takes several times as long, at 8 bits a hundred times: there it converts the whole weight on every call.
    `embeddings`: look-up tables too. `exclude` names nodes that stay float.
    Raises UsageError for a block size or an accuracy level that the kernels do not have.
    """

    name: ClassVar[str]
    bits: ClassVar[int]
    minimum_opset: ClassVar[int] = 10  # Slice with inputs

    block_size: int = 32
    symmetric: bool = True
    method: Method = "k-quant"
    embeddings: bool = True
    accuracy_level: int = 4
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.block_size not in _BLOCK_SIZES:
            raise UsageError(f"block size {self.block_size} has no kernels", hint=f"one of {_BLOCK_SIZES}")
        if self.accuracy_level not in _ACCURACY_LEVELS:
            raise UsageError(f"accuracy level {self.accuracy_level} is not 0 (float32) or 4 (int8)")

    @property
    def needs_samples(self) -> bool:
        return self.method == "gptq"

    @property
    def streams(self) -> bool:
        """GPTQ runs the float model; the others look at one weight after another."""
        return self.method != "gptq"

    def _grid(self, columns: int) -> Grid:
        """Blocks no wider than what they hold."""
        needed = max(_BLOCK_SIZES[0], 1 << (columns - 1).bit_length())
        return Grid(self.bits, min(self.block_size, needed), self.symmetric)

    def apply(self, model: ir.Model, setting: Setting) -> Applied:
        matrices, others = self._chosen(model, setting)
        writer = BlockWriter(model.graph, setting.store, accuracy_level=self.accuracy_level)
        errors: dict[str, float] = {}
        with setting.progress.task("quantize", len(matrices)) as advance:
            for matrix, moments in self._observed(model, matrices, setting):
                name, grid = str(matrix.source.name), self._grid(matrix.shape[1])
                blocks, errors[name] = quantize_blocks(matrix.read(), grid, self._rounding(moments, grid), name=name)
                writer.write(matrix, blocks, grid)
                advance()
        stored = store_weights(others, setting.store)
        if not (stored or any(matrix.products for matrix in matrices)):
            why = "its weights are so small that integers take more room" if matrices or others else "all is excluded"
            raise QuantizationError(f"{setting.source}: nothing to quantize: {why}")
        errors |= stored
        tidy(model)
        shared = sorted(str(matrix.source.name) for matrix in matrices if matrix.lookups and matrix.products)
        choices = {
            "weight_errors": {name: round(error, 6) for name, error in errors.items()},
            "shared": shared,
            "stored_only": sorted(stored),
        }
        return Applied(model, choices, shows="stored")

    def _chosen(self, model: ir.Model, setting: Setting) -> tuple[list[Matrix], list[ir.Node]]:
        """The matrices that become blocks, and the nodes whose weights have no such kernels."""
        found = find_matrices(model)
        nodes = [node for m in found for node in (*m.products, *m.lookups)]
        others = storable(model)
        refuse_weightless(model, [*(node for m in found for node in m.products), *others], setting.source, "operator")
        kept = set(without([*nodes, *others], self.exclude, model))
        for matrix in found:
            matrix.products = [node for node in matrix.products if node in kept]
            matrix.lookups = [node for node in matrix.lookups if node in kept and self.embeddings]
        # A few columns, padded to a block, can take more room than they had.
        smaller = [m for m in found if self._grid(m.shape[1]).size_bytes(*m.shape) < 4 * m.shape[0] * m.shape[1]]
        blocks = [matrix for matrix in smaller if matrix.products or matrix.lookups]
        blocked = {node for matrix in blocks for node in matrix.products}
        return blocks, [node for node in others if node in kept and node not in blocked]

    def _observed(
        self, model: ir.Model, matrices: list[Matrix], setting: Setting
    ) -> Iterator[tuple[Matrix, Array | None]]:
        """Each matrix with the moments of what it is multiplied with; None where method or samples give none."""
        readers: dict[str, list[Matrix]] = {}
        if setting.samples is not None and self.method in ("k-quant", "gptq"):
            for matrix in matrices:
                if matrix.products and (source := matrix.products[0].inputs[0]) is not None:  # the first for all
                    readers.setdefault(str(source.name), []).append(matrix)
        widths = {name: found[0].shape[1] for name, found in readers.items()}
        # The clone stays float while matrix after matrix of the model is replaced.
        for moments in second_moments(model.clone(), widths, setting, full=self.method == "gptq") if widths else ():
            for name, moment in moments.items():
                for matrix in readers.pop(name):
                    yield matrix, _with_lookups(moment) if matrix.lookups else moment
        unseen = {id(matrix) for found in readers.values() for matrix in found}
        for matrix in matrices:
            if id(matrix) in unseen or not matrix.products or not widths:
                yield matrix, None

    def _rounding(self, moments: Array | None, grid: Grid) -> Rounding:
        if self.method == "rtn":
            return round_to_nearest
        if self.method == "hqq":
            return half_quadratic
        if moments is None:
            return k_quant
        if self.method == "gptq":
            return Gptq(moments)
        padded = np.zeros(-(-len(moments) // grid.block_size) * grid.block_size, np.float32)
        padded[: len(moments)] = moments + _UNSEEN * (moments.mean() or 1.0)
        return partial(k_quant, importance=padded.reshape(-1, grid.block_size))


def _with_lookups(moments: Array) -> Array:
    """Moments of a head that is also an embedding: a look-up weighs every column alike."""
    mean = float(np.diag(moments).mean() if moments.ndim == 2 else moments.mean()) or 1.0
    scaled: Array = moments / np.float32(mean)
    return scaled + (np.eye(len(moments), dtype=np.float32) if moments.ndim == 2 else np.float32(1))
