"""The parts of a model that may be quantized or left in float, one by one or block by block."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from edgeai.quantization.layers import find_matrices
from edgeai.quantization.stored_weights import weight_elements

# Beyond so many the search would take hours, and the layers of one block tend to suffer together.
MOST_GROUPS = 64
_BLOCK = re.compile(r"^(.*?\b\d+)\.")


@dataclass(frozen=True)
class Group:
    """`nodes` by name, quantized or left in float together; `elements` are their weights."""

    name: str
    nodes: tuple[str, ...]
    elements: int


def groups(before: ir.Model, after: ir.Model, *, most: int = MOST_GROUPS) -> list[Group]:
    """What a recipe changed: the nodes of `before` that have less float weight in `after`, in graph order.

    Recurrent nodes and those in the bodies of If, Loop and Scan count as well. Each is a group of its own; with more
    than `most` of them, the layers of one numbered block (`encoder.3`) are one.
    """
    left = {node.name: elements for node, elements in _float_weights(after).items()}
    changed = {node: size for node, size in _float_weights(before).items() if left.get(node.name, 0) < size}
    single = [Group(str(node.name), (str(node.name),), size) for node, size in changed.items()]
    if len(single) <= most:
        return single
    blocks: dict[str, list[Group]] = {}
    for node, group in zip(changed, single, strict=True):
        blocks.setdefault(_block(node), []).append(group)
    return [_merged(name, parts) for name, parts in blocks.items()]


def _float_weights(model: ir.Model) -> dict[ir.Node, int]:
    """How many constant float elements each node multiplies with, in graph order; transposed ones are seen too."""
    products = {node: math.prod(matrix.shape) for matrix in find_matrices(model) for node in matrix.products}
    nodes = ir.traversal.RecursiveGraphIterator(model.graph)
    found = {node: products.get(node) or weight_elements(node) for node in nodes}
    return {node: elements for node, elements in found.items() if elements}


def _block(node: ir.Node) -> str:
    weight = str(node.inputs[1].name) if node.inputs[1] is not None else ""
    found = _BLOCK.match(weight)
    return found[1] if found else str(node.name)


def _merged(name: str, parts: Sequence[Group]) -> Group:
    return Group(name, tuple(n for part in parts for n in part.nodes), sum(part.elements for part in parts))
