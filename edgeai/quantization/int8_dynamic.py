"""Integer weights, activations quantized while running: no samples needed, for MatMul and Gemm.

MatMul(x, W) -> DynamicQuantizeLinear(x), MatMulInteger, Cast, two Muls: the form that ONNX Runtime fuses into
DynamicQuantizeMatMul or MatMulIntegerToFloat. Conv stays float (ConvInteger is an order of magnitude slower than
the float kernel). Embeddings become GatherBlockQuantized: a quarter of their size, and no time lost or saved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from edgeai.quantization.block_writer import BlockWriter
from edgeai.quantization.blocks import Grid, quantize_blocks
from edgeai.quantization.layers import Matrix, find_matrices
from edgeai.quantization.preparation import refuse_weightless, weighted_nodes
from edgeai.quantization.recipe import Applied, Setting, resolved_reduce_range, without
from edgeai.quantization.round_to_nearest import round_to_nearest
from edgeai.quantization.weights import IntegerType, quantize_weight
from edgeai.spec import Array

_EMBEDDING = Grid(bits=8, block_size=128, symmetric=True)

# The float weights go; a name that the file had already used for something else becomes unique.
_TIDY = ir.passes.Sequential(common.RemoveUnusedNodesPass(), common.NameFixPass())


@dataclass(frozen=True)
class Int8Dynamic:
    """`reduce_range=None` decides by the target's CPU; `embeddings`: look-up tables too, 128 columns to a scale.

    `exclude` names nodes that stay float.
    """

    name: ClassVar[str] = "int8-dynamic"
    minimum_opset: ClassVar[int] = 11
    needs_samples: ClassVar[bool] = False

    per_channel: bool = True
    weight_type: IntegerType = "int8"
    reduce_range: bool | None = None
    embeddings: bool = True
    exclude: tuple[str, ...] = ()

    def apply(self, model: ir.Model, setting: Setting) -> Applied:
        reduce_range = resolved_reduce_range(self.reduce_range, self.weight_type, setting.target)
        candidates = [node for node in weighted_nodes(model) if node.op_type != "Conv"]
        refuse_weightless(model, candidates, setting.source, "MatMul or Gemm")
        chosen = without(candidates, self.exclude, model)
        tables = self._tables(model)
        writer = _Writer(self, reduce_range, model.graph)
        with setting.progress.task("quantize", len(chosen)) as advance:
            for node in chosen:
                writer.rewrite(node)
                advance()
        if tables:
            embedding_writer = BlockWriter(model.graph, setting.store)
            for table in tables:
                blocks, _ = quantize_blocks(table.read(), _EMBEDDING, round_to_nearest, name=str(table.source.name))
                embedding_writer.write(table, blocks, _EMBEDDING)
        _TIDY(model)
        return Applied(model, {"reduce_range": reduce_range})

    def _tables(self, model: ir.Model) -> list[Matrix]:
        """The embeddings, without the products that a tied head makes with them: those have weights of their own."""
        found = [Matrix(m.source, m.transposed, [], m.lookups) for m in find_matrices(model) if m.lookups]
        for table in found:
            table.lookups = without(table.lookups, self.exclude, model) if self.embeddings else []
        return [t for t in found if t.lookups and _EMBEDDING.size_bytes(*t.shape) < 4 * t.shape[0] * t.shape[1]]


class _Writer:
    """Writes the integer form of one node after another; inputs and weights in common are quantized once."""

    def __init__(self, recipe: Int8Dynamic, reduce_range: bool, graph: ir.Graph) -> None:
        self._recipe, self._reduce_range, self._graph = recipe, reduce_range, graph
        self._activations: dict[ir.Value, tuple[ir.Value, ir.Value, ir.Value]] = {}
        self._weights: dict[tuple[ir.Value, bool], tuple[ir.Value, ir.Value, ir.Value]] = {}

    def rewrite(self, node: ir.Node) -> None:
        source, weight_value, output = node.inputs[0], node.inputs[1], node.outputs[0]
        assert source is not None
        assert weight_value is not None
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        tape = ir.tape.Tape()
        values, scale, zero_point = self._activation(source, node)
        weight, weight_scale, weight_zero_point = self._weight(weight_value, node.attributes.get_int("transB", 0) != 0)
        product = tape.op("MatMulInteger", [values, weight, zero_point, weight_zero_point])
        product = tape.op("Cast", [product], attributes={"to": ir.DataType.FLOAT})
        scales = tape.op("Mul", [scale, weight_scale])
        result = tape.op("Mul", [product, scales])
        if bias is not None:
            result = tape.op("Add", [result, bias])
        for index, new in enumerate(tape.nodes):
            new.name = f"{node.name}_quantized_{index}"
            new.outputs[0].name = f"{new.name}_output"
        ir.convenience.replace_nodes_and_values(self._graph, node, [node], tape.nodes, [output], [result])

    def _activation(self, source: ir.Value, node: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value]:
        if source not in self._activations:
            new = ir.node("DynamicQuantizeLinear", [source], num_outputs=3, name=f"{source.name}_quantize")
            for output, part in zip(new.outputs, ("quantized", "scale", "zero_point"), strict=True):
                output.name = f"{source.name}_{part}"
            self._graph.insert_before(node, new)
            self._activations[source] = (new.outputs[0], new.outputs[1], new.outputs[2])
        return self._activations[source]

    def _weight(self, value: ir.Value, transposed: bool) -> tuple[ir.Value, ir.Value, ir.Value]:
        key = (value, transposed)
        if key not in self._weights:
            assert value.const_value is not None
            matrix = value.const_value.numpy()  # (K, N), or (N, K) if transposed
            quantized = quantize_weight(
                matrix.T if transposed else matrix,
                dtype=self._recipe.weight_type,
                per_channel=self._recipe.per_channel,
                reduce_range=self._reduce_range,
                name=str(value.name),
            )
            self._weights[key] = (
                self._constant(f"{value.name}_quantized", quantized.values),
                self._constant(f"{value.name}_scale", quantized.scale),
                self._constant(f"{value.name}_zero_point", quantized.zero_point),
            )
        return self._weights[key]

    def _constant(self, name: str, array: Array) -> ir.Value:
        while name in self._graph.initializers:
            name += "_"
        tensor = ir.Tensor(np.ascontiguousarray(array), name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._graph.register_initializer(value)
        return value
