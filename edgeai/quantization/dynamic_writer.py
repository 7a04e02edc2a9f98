"""Write products whose activations are quantized while running, and look-ups in the integers of such a product."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeai.quantization.constants import constant
from edgeai.quantization.layers import Matrix
from edgeai.quantization.weights import IntegerType, quantize_weight


@dataclass(frozen=True)
class _Weight:
    """`values` (K,N), `scale` and `zero_point` () or (N,). `rows` (N,K) and `row_scales` (N,1) of a shared one."""

    values: ir.Value
    scale: ir.Value
    zero_point: ir.Value
    rows: ir.Value | None = None
    row_scales: ir.Value | None = None


class DynamicWriter:
    """Replaces one node after another; inputs and weights in common are quantized once.

    New constants belong to the main graph, `graph`; activations are quantized in the graph or body that reads them.
    """

    def __init__(self, graph: ir.Graph, *, dtype: IntegerType, per_channel: bool, reduce_range: bool) -> None:
        self._graph, self._dtype, self._per_channel, self._reduce_range = graph, dtype, per_channel, reduce_range
        self._activations: dict[tuple[ir.Value, ir.Graph], tuple[ir.Value, ir.Value, ir.Value]] = {}
        self._weights: dict[tuple[ir.Value, bool], _Weight] = {}

    def product(self, node: ir.Node, matrix: Matrix, *, shared: bool = False) -> None:
        """MatMul or Gemm with `matrix`. `shared`: keep its integers as rows, for look-ups."""
        source = node.inputs[0]
        assert source is not None
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        tape = ir.tape.Tape()
        values, scale, zero_point = self._activation(source, node)
        weight = self._weight(matrix, shared)
        product = tape.op("MatMulInteger", [values, weight.values, zero_point, weight.zero_point])
        product = tape.op("Cast", [product], attributes={"to": ir.DataType.FLOAT})
        scales = tape.op("Mul", [scale, weight.scale])
        result = tape.op("Mul", [product, scales])
        if bias is not None:
            result = tape.op("Add", [result, bias])
        _replace(node, tape, result)

    def lookups(self, matrix: Matrix) -> None:
        """The look-ups in `matrix`, in the rows that its products share."""
        weight = self._weight(matrix, True)
        for node in matrix.lookups:
            tape = ir.tape.Tape()
            row, scale = (tape.op("Gather", [table, node.inputs[1]]) for table in (weight.rows, weight.row_scales))
            found = tape.op("Mul", [tape.op("Cast", [row], attributes={"to": ir.DataType.FLOAT}), scale])
            _replace(node, tape, found)

    def _activation(self, source: ir.Value, node: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value]:
        assert isinstance(node.graph, ir.Graph)
        key = (source, node.graph)
        if key not in self._activations:
            new = ir.node("DynamicQuantizeLinear", [source], num_outputs=3, name=f"{source.name}_quantize")
            for output, part in zip(new.outputs, ("quantized", "scale", "zero_point"), strict=True):
                output.name = f"{source.name}_{part}"
            node.graph.insert_before(node, new)
            self._activations[key] = (new.outputs[0], new.outputs[1], new.outputs[2])
        return self._activations[key]

    def _weight(self, matrix: Matrix, shared: bool) -> _Weight:
        key = (matrix.source, matrix.transposed)
        if key not in self._weights:
            name = str(matrix.source.name)
            quantized = quantize_weight(
                matrix.read().T,
                dtype=self._dtype,
                per_channel=self._per_channel,
                reduce_range=self._reduce_range,
                name=name,
            )
            zero_point = constant(self._graph, f"{name}_zero_point", quantized.zero_point)
            if shared:
                rows = constant(self._graph, f"{name}_quantized", quantized.values.T)
                row_scales = constant(self._graph, f"{name}_scale", quantized.scale[:, None])
                self._weights[key] = self._turned(name, zero_point, rows, row_scales)
            else:
                values = constant(self._graph, f"{name}_quantized", quantized.values)
                scale = constant(self._graph, f"{name}_scale", quantized.scale)
                self._weights[key] = _Weight(values, scale, zero_point)
        return self._weights[key]

    def _turned(self, name: str, zero_point: ir.Value, rows: ir.Value, row_scales: ir.Value) -> _Weight:
        """(K,N) and (N,) of rows (N,K) and scales (N,1), by operators that ONNX Runtime folds when it loads."""
        tape = ir.tape.Tape()
        values = tape.op("Transpose", [rows], attributes={"perm": [1, 0]})
        flat = constant(self._graph, f"{name}_scale_shape", np.array([-1]))
        scale = tape.op("Reshape", [row_scales, flat])
        for new, part in zip(tape.nodes, ("columns", "column_scale"), strict=True):
            new.name = new.outputs[0].name = f"{name}_{part}"
        self._graph.insert_before(self._graph[0], tape.nodes)
        return _Weight(values, scale, zero_point, rows, row_scales)


def _replace(node: ir.Node, tape: ir.tape.Tape, result: ir.Value) -> None:
    for index, new in enumerate(tape.nodes):
        new.name = f"{node.name}_quantized_{index}"
        new.outputs[0].name = f"{new.name}_output"
    assert isinstance(node.graph, ir.Graph)
    ir.convenience.replace_nodes_and_values(node.graph, node, [node], tape.nodes, node.outputs, [result])
