"""Look-up tables in integers (GatherBlockQuantized): a quarter of their size, and no time lost or saved."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from edgeai.quantization.block_writer import BlockWriter
from edgeai.quantization.blocks import Grid, quantize_blocks
from edgeai.quantization.layers import Matrix
from edgeai.quantization.recipe import Store
from edgeai.quantization.round_to_nearest import round_to_nearest

_BLOCK_SIZES = (16, 128)  # the least that the kernel has, and ours
_NODE_BYTES = 500  # a node and its attributes, about


def quantize_embeddings(matrices: Iterable[Matrix], graph: ir.Graph, store: Store) -> list[str]:
    """Store the tables of `matrices` that are looked up as int8, up to 128 columns to a scale; their names.

    Products with the same matrix keep what they have. A table that would not shrink stays as it is.
    """
    written = []
    for matrix in matrices:
        rows, columns = matrix.shape
        grid = _grid(columns)
        scales = -(-columns // grid.block_size)
        if matrix.lookups and rows * (3 * columns - 4 * scales) > _NODE_BYTES:
            table = Matrix(matrix.source, matrix.transposed, [], matrix.lookups)
            blocks, _ = quantize_blocks(table.read(), grid, round_to_nearest, name=str(table.source.name))
            BlockWriter(graph, store).write(table, blocks, grid)
            written.append(str(matrix.source.name))
    return written


def _grid(columns: int) -> Grid:
    least, most = _BLOCK_SIZES
    return Grid(bits=8, block_size=min(most, max(least, 1 << (columns - 1).bit_length())), symmetric=True)
