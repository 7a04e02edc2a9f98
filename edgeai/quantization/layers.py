"""Which constant matrices a model multiplies with or looks words up in, and who reads them.

A matrix is seen as rows (N,K): N output features, or words. A MatMul's (K,N) initializer is such a matrix transposed,
and so is the tied head of a language model, which exporters write as MatMul(x, Transpose(embedding)), and our own
rewrite as MatMul with a transposed copy: all of them are one matrix here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from edgeai.spec import Array

_PRODUCTS = ("MatMul", "Gemm")


@dataclass
class Matrix:
    """`source` holds the rows (N,K), or (K,N) if `transposed`. `products` and `lookups` are its readers."""

    source: ir.Value
    transposed: bool
    products: list[ir.Node] = field(default_factory=list)
    lookups: list[ir.Node] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)"""
        assert self.source.const_value is not None
        first, second = (int(size) for size in self.source.const_value.shape.numpy())
        return (second, first) if self.transposed else (first, second)

    def read(self) -> Array:
        """float32 (N,K), from the disk where it lies there; possibly a transposed view."""
        assert self.source.const_value is not None
        array = read_tensor(self.source.const_value)
        return array.T if self.transposed else array


def find_matrices(model: ir.Model) -> list[Matrix]:
    """Every constant float32 matrix that is multiplied with or looked up in, subgraphs included, in graph order.

    Matrices of equal content of which one is looked up and the other multiplied with are one.
    """
    matrices = _matrices(model)
    for copy, embedding in _ties(matrices):
        embedding.products += copy.products
        matrices.remove(copy)
    return matrices


def share_ties(model: ir.Model) -> None:
    """Replace a tied head's transposed copy of the embedding by a Transpose, which ONNX Runtime folds as it loads."""
    for copy, embedding in _ties(_matrices(model)):
        if copy.source is embedding.source or not copy.transposed:
            continue
        node = ir.node("Transpose", [embedding.source], {"perm": [1, 0]}, name=f"{copy.source.name}_transpose")
        node.outputs[0].name, node.outputs[0].type = f"{copy.source.name}_shared", ir.TensorType(ir.DataType.FLOAT)
        ir.convenience.replace_all_uses_with(copy.source, node.outputs[0])
        model.graph.initializers.pop(str(copy.source.name))
        model.graph.insert_before(model.graph[0], node)


def _matrices(model: ir.Model) -> list[Matrix]:
    found: dict[tuple[ir.Value, bool], Matrix] = {}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain != "":
            continue
        if node.op_type in _PRODUCTS and (place := _weight(node)) is not None:
            found.setdefault(place, Matrix(*place)).products.append(node)
        elif node.op_type == "Gather" and node.attributes.get_int("axis", 0) == 0:
            if (table := node.inputs[0]) is None or not _is_matrix(table):
                continue
            found.setdefault((table, False), Matrix(table, False)).lookups.append(node)
    return list(found.values())


def read_tensor(tensor: ir.TensorProtocol) -> Array:
    """The values of a tensor, read and not mapped: pages of a mapped file count as this process's memory."""
    if isinstance(tensor, ir.ExternalTensor) and tensor.dtype.bitwidth >= 8:
        shape = tuple(int(size) for size in tensor.shape.numpy())
        flat = np.fromfile(tensor.path, tensor.dtype.numpy(), count=int(np.prod(shape)), offset=tensor.offset or 0)
        return flat.reshape(shape)
    array: Array = tensor.numpy()
    return array


def _ties(matrices: list[Matrix]) -> Iterator[tuple[Matrix, Matrix]]:
    for embedding in [matrix for matrix in matrices if matrix.lookups]:
        for other in [matrix for matrix in matrices if not matrix.lookups and matrix.shape == embedding.shape]:
            # The same source is not enough: a square table may be multiplied with as it stands, not transposed.
            if np.array_equal(other.read(), embedding.read()):
                yield other, embedding
                break


def _weight(node: ir.Node) -> tuple[ir.Value, bool] | None:
    """The initializer that the node multiplies with, and whether it holds (K,N)."""
    value, transposed = node.inputs[1], True
    if node.op_type == "Gemm":
        scaled = node.attributes.get_float("alpha", 1.0) != 1.0 or node.attributes.get_float("beta", 1.0) != 1.0
        if scaled or node.attributes.get_int("transA", 0) != 0:
            return None
        transposed = node.attributes.get_int("transB", 0) == 0
    producer = value.producer() if value is not None else None
    if producer is not None and producer.op_type == "Transpose" and producer.domain == "":
        value, transposed = producer.inputs[0], not transposed
        if _is_matrix(value) and list(producer.attributes.get_ints("perm", (1, 0))) != [1, 0]:
            return None
    if value is None or not _is_matrix(value):
        return None
    return value, transposed


def _is_matrix(value: ir.Value | None) -> bool:
    tensor = value.const_value if value is not None and value.is_initializer() and not value.is_graph_input() else None
    return tensor is not None and tensor.dtype is ir.DataType.FLOAT and len(tensor.shape) == 2 and tensor.size > 0
