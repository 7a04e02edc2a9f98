"""Tensors of attention heads: where they come from, and how to hand them to an operator that splits heads itself.

Letters: B batch, S or T positions, H heads, D head size, W = H * D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from edgeai.graph.rewriting import insert, int64s
from edgeai.graph.shapes import Size, sizes

SWAP_HEADS = (0, 2, 1, 3)  # (B, S, H, D) <-> (B, H, S, D)


@dataclass(frozen=True)
class Heads:
    """Four-dimensional heads: (B, H, S, D), or (B, S, H, D) where `last`; both counts are fixed numbers."""

    tensor: ir.Value
    count: int  # H
    size: int  # D
    last: bool = False

    @classmethod
    def of(cls, tensor: ir.Value | None, *, last: bool = False) -> Heads | None:
        """None if the tensor has not four axes or its number of heads or their size is not fixed."""
        shape = sizes(tensor)
        if tensor is None or shape is None or len(shape) != 4:
            return None
        count, size = shape[2 if last else 1], shape[3]
        return cls(tensor, count, size, last) if isinstance(count, int) and isinstance(size, int) else None

    def four(self, before: ir.Node) -> ir.Value:
        """(B, H, S, D), written in front of `before` where it is not there."""
        return insert(before, "Transpose", [self.tensor], {"perm": SWAP_HEADS}).outputs[0] if self.last else self.tensor

    def joined(self, before: ir.Node) -> ir.Value:
        """(B, S, W): what the heads were split from, or else written in front of `before`."""
        found = self.source()
        if found is not None:
            return found
        assert before.graph is not None
        tensor = self.tensor
        if not self.last:
            tensor = insert(before, "Transpose", [tensor], {"perm": SWAP_HEADS}).outputs[0]
        shape = int64s(before.graph, 0, 0, self.count * self.size)
        return insert(before, "Reshape", [tensor, shape]).outputs[0]

    def source(self) -> ir.Value | None:
        """The (B, S, W) tensor that these heads are nothing but a view of; None if there is none."""
        split = self._split()
        shape = None if split is None else sizes(split.inputs[0])
        if split is None or shape is None or len(shape) != 3 or shape[2] != self.count * self.size:
            return None
        return split.inputs[0]

    @property
    def length(self) -> Size:
        """S: how many positions there are."""
        shape = sizes(self.tensor)
        assert shape is not None
        return shape[1 if self.last else 2]

    def _split(self) -> ir.Node | None:
        node = self.tensor.producer()
        if not self.last:
            if node is None or not is_op(node, "Transpose") or node.attributes.get_ints("perm", None) != SWAP_HEADS:
                return None
            node = node.inputs[0].producer() if node.inputs[0] is not None else None
        return node if node is not None and is_op(node, "Reshape") else None


def is_op(node: ir.Node | None, *types: str) -> bool:
    """Is it one of these standard operators?"""
    return node is not None and node.domain == "" and node.op_type in types
