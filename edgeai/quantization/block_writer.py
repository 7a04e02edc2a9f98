"""Write a quantized matrix into a graph: MatMulNBits for products, GatherBlockQuantized for look-ups.

Both operators read the same bytes, so a tied embedding and head are stored once. MatMulNBits takes the codes as
(N,B,S), GatherBlockQuantized as (N,B*S): a Reshape of the one constant, which ONNX Runtime folds when it loads.
Letters as in `blocks`.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeai.quantization.blocks import Blocks, Grid, pack
from edgeai.quantization.constants import constant
from edgeai.quantization.layers import Matrix
from edgeai.quantization.recipe import Store
from edgeai.spec import Array

_DOMAIN = "com.microsoft"


class BlockWriter:
    """Replaces the readers of one matrix after another; the new constants belong to the main graph.

    `accuracy_level` 4 lets ONNX Runtime round the activations of products to int8, 0 does not.
    """

    def __init__(self, graph: ir.Graph, store: Store, *, accuracy_level: int = 0) -> None:
        self._graph, self._store, self._accuracy_level = graph, store, accuracy_level
        graph.opset_imports[_DOMAIN] = 1

    def write(self, matrix: Matrix, blocks: Blocks, grid: Grid) -> None:
        rows, columns = matrix.shape
        name = str(matrix.source.name)
        codes = pack(blocks.codes, grid.bits)
        if not matrix.products:  # nobody needs the padding
            codes = codes.reshape(rows, -1)[:, : -(-columns * grid.bits // 8)]
        parts = [self._constant(f"{name}_int{grid.bits}", codes), self._constant(f"{name}_scales", blocks.scales)]
        if not grid.symmetric:
            parts.append(self._constant(f"{name}_zero_points", pack(blocks.zero_points, grid.bits)))
        for node in matrix.products:
            self._product(node, parts, grid, rows, columns)
        for node in matrix.lookups:
            self._lookup(node, parts, grid, columns, codes.size // rows)

    def _product(self, node: ir.Node, parts: list[ir.Value], grid: Grid, rows: int, columns: int) -> None:
        tape = ir.tape.Tape()
        inputs: list[ir.Value | None] = [node.inputs[0], *parts]
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        fused = bias is not None and bias.const_value is not None and tuple(bias.const_value.shape.numpy()) == (rows,)
        if fused:
            inputs += [None] * (5 - len(inputs))
            inputs.append(bias)
        attributes = {
            "K": columns, "N": rows, "bits": grid.bits, "block_size": grid.block_size,
            "accuracy_level": self._accuracy_level,
        }  # fmt: skip
        result = tape.op("MatMulNBits", inputs, attributes, domain=_DOMAIN)
        if bias is not None and not fused:
            result = tape.op("Add", [result, bias])
        self._replace(node, tape, result)

    def _lookup(self, node: ir.Node, parts: list[ir.Value], grid: Grid, columns: int, width: int) -> None:
        """`width`: bytes that hold a row."""
        tape = ir.tape.Tape()
        data, *scales = parts
        if data.shape is not None and len(data.shape) == 3:
            data = tape.op("Reshape", [data, self._constant(f"{data.name}_shape", np.array([-1, width]))])
        attributes = {"gather_axis": 0, "quantize_axis": 1, "bits": grid.bits, "block_size": grid.block_size}
        found = tape.op("GatherBlockQuantized", [data, node.inputs[1], *scales], attributes, domain=_DOMAIN)
        if width * 8 // grid.bits != columns:
            ends = {"from": 0, "to": columns, "axis": -1}
            at = [self._constant(f"{node.name}_{part}", np.array([position])) for part, position in ends.items()]
            found = tape.op("Slice", [found, *at])
        self._replace(node, tape, found)

    def _replace(self, node: ir.Node, tape: ir.tape.Tape, result: ir.Value) -> None:
        for index, new in enumerate(tape.nodes):
            new.name = f"{node.name}_quantized_{index}"
            new.outputs[0].name = f"{new.name}_output"
        assert isinstance(node.graph, ir.Graph)
        ir.convenience.replace_nodes_and_values(node.graph, node, [node], tape.nodes, node.outputs, [result])

    def _constant(self, name: str, array: Array) -> ir.Value:
        return constant(self._graph, name, array, self._store)
