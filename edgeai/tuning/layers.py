"""The parts of a model that may be quantized or left in float, one by one or block by block."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from edgeai.quantization.preparation import weighted_nodes

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
    """What a recipe changed: the weighted nodes of `before` that are no float nodes in `after`, in graph order.

    Each is a group of its own; with more than `most` of them, the layers of one numbered block (`encoder.3`) are one.
    """
    left = {node.name for node in weighted_nodes(after)}
    changed = [node for node in weighted_nodes(before) if node.name not in left]
    single = [Group(str(node.name), (str(node.name),), _elements(node)) for node in changed]
    if len(single) <= most:
        return single
    blocks: dict[str, list[Group]] = {}
    for node, group in zip(changed, single, strict=True):
        blocks.setdefault(_block(node), []).append(group)
    return [_merged(name, parts) for name, parts in blocks.items()]


def _block(node: ir.Node) -> str:
    weight = str(node.inputs[1].name) if node.inputs[1] is not None else ""
    found = _BLOCK.match(weight)
    return found[1] if found else str(node.name)


def _elements(node: ir.Node) -> int:
    weight = node.inputs[1]
    return int(weight.const_value.size) if weight is not None and weight.const_value is not None else 0


def _merged(name: str, parts: Sequence[Group]) -> Group:
    return Group(name, tuple(n for part in parts for n in part.nodes), sum(part.elements for part in parts))
