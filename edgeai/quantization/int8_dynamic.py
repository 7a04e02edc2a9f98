"""Integer weights, activations quantized while running: no samples needed, for MatMul, Gemm and LSTM.

MatMul(x, W) -> DynamicQuantizeLinear(x), MatMulInteger, Cast, two Muls: the form that ONNX Runtime fuses into
DynamicQuantizeMatMul or MatMulIntegerToFloat. Conv stays float (ConvInteger is an order of magnitude slower than
the float kernel). GRU, RNN and ConvTranspose have no integer kernel: only their weights become integers. An
embedding that is the LM head too shares the head's integers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from edgeai.quantization.dynamic_writer import DynamicWriter
from edgeai.quantization.embeddings import quantize_embeddings
from edgeai.quantization.layers import Matrix, find_matrices
from edgeai.quantization.preparation import refuse_weightless
from edgeai.quantization.recipe import Applied, Setting, resolved_reduce_range, without
from edgeai.quantization.recurrent import quantizable_lstms, quantize_lstm
from edgeai.quantization.stored_weights import storable, store_weights
from edgeai.quantization.tidying import tidy
from edgeai.quantization.weights import IntegerType

_NO_KERNEL = "ONNX Runtime has no integer kernel for it"
_NO_MATRIX = "its weight is not one matrix on the right, without scaling or transposed activations"
_LEFT: Mapping[str, str] = {
    "Conv": "ConvInteger is slower than Conv in float",
    "ConvTranspose": _NO_KERNEL,
    "GRU": _NO_KERNEL,
    "RNN": _NO_KERNEL,
    "LSTM": "DynamicQuantizeLSTM takes constant weights for both products, and time on the first axis",
    "MatMul": _NO_MATRIX,
    "Gemm": _NO_MATRIX,
}


@dataclass(frozen=True)
class Int8Dynamic:
    """`reduce_range=None` decides by the target's CPU; `embeddings`: look-up tables too, 128 columns to a scale.

    What stands in the bodies of If, Loop and Scan is quantized as well. `exclude` names nodes that stay float. The
    lineage says of every node that multiplies in float why it does (`left_float`).
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
        matrices, lstms = find_matrices(model), quantizable_lstms(model)
        products = {node: matrix for matrix in matrices for node in matrix.products}
        refuse_weightless(model, [*products, *lstms], setting.source, "MatMul, Gemm or LSTM")
        chosen = set(without([*products, *lstms, *_lookups(matrices)], self.exclude, model))
        for matrix in matrices:
            matrix.products = [node for node in matrix.products if node in chosen]
            matrix.lookups = [node for node in matrix.lookups if node in chosen and self.embeddings]
        shared = [matrix for matrix in matrices if matrix.products and matrix.lookups and self._shares]
        writer = DynamicWriter(
            model.graph, dtype=self.weight_type, per_channel=self.per_channel, reduce_range=reduce_range
        )
        # An activation is quantized in front of its first reader, so the readers come in order.
        nodes = [node for node in ir.traversal.RecursiveGraphIterator(model.graph) if node in chosen]
        with setting.progress.task("quantize", len(nodes)) as advance:
            for node in nodes:
                if node.op_type == "LSTM":
                    quantize_lstm(node, model.graph, dtype=self.weight_type, reduce_range=reduce_range)
                elif node in products:
                    writer.product(node, products[node], shared=products[node] in shared)
                advance()
        for matrix in shared:
            writer.lookups(matrix)
        quantize_embeddings((matrix for matrix in matrices if matrix not in shared), model.graph, setting.store)
        rest = storable(model)
        kernelless = [node for node in rest if _LEFT.get(node.op_type) == _NO_KERNEL and node.name not in self.exclude]
        choices = {
            "reduce_range": reduce_range,
            "shared": sorted(str(matrix.source.name) for matrix in shared),
            "left_float": _reasons(rest, self.exclude),
            "stored_only": sorted(store_weights(kernelless, setting.store)),
        }
        tidy(model)
        return Applied(model, choices)

    @property
    def _shares(self) -> bool:
        """Look-ups want one scale a row and zero in the middle."""
        return self.per_channel and self.weight_type == "int8"


def _lookups(matrices: list[Matrix]) -> list[ir.Node]:
    return [node for matrix in matrices for node in matrix.lookups]


def _reasons(nodes: Iterable[ir.Node], excluded: Collection[str]) -> dict[str, list[str]]:
    """Why nodes multiply in float, and the names of those that do for this reason, in graph order."""
    found: dict[str, list[str]] = {}
    for node in nodes:
        reason = "excluded" if node.name in excluded else _LEFT.get(node.op_type, _NO_KERNEL)
        found.setdefault(reason, []).append(str(node.name))
    return found
