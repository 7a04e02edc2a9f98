"""Writing into a graph: new nodes in front of others, one value in place of another, and no dead wood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgeai.graph.constants import add_initializer

CONTRIB = "com.microsoft"
Attribute = int | float | str | Sequence[int]


def insert(
    before: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Attribute] | None = None,
    *,
    domain: str = "",
    outputs: int = 1,
) -> ir.Node:
    """A new node in front of `before`, its outputs named after those of `before`."""
    graph = before.graph
    assert isinstance(graph, ir.Graph)
    while inputs and inputs[-1] is None:
        inputs = inputs[:-1]
    node = ir.node(op_type, inputs, attributes, domain=domain, num_outputs=outputs)
    graph.insert_before(before, node)
    stem = f"{before.outputs[0].name}_{op_type}"
    taken = {value.name for other in graph for value in other.outputs} | graph.initializers.keys()
    number = 0
    for value in node.outputs:
        while f"{stem}_{number}" in taken:
            number += 1
        value.name = f"{stem}_{number}"
        taken.add(value.name)
    return node


def int64s(graph: ir.Graph, *values: int) -> ir.Value:
    """An initializer with these numbers; the same numbers share one."""
    name = "int64_" + "_".join(str(value).replace("-", "m") for value in values)
    known = graph.initializers.get(name)
    array = np.array(values, np.int64)
    if known is not None and known.const_value is not None and np.array_equal(known.const_value.numpy(), array):
        return known
    return add_initializer(graph, name, ir.tensor(array))


def replace(old: ir.Value, new: ir.Value) -> None:
    """Let every reader of `old` read `new`, callers of the graph included, who keep the name that they know."""
    node = old.producer()
    graph = node.graph if node is not None else None
    assert isinstance(graph, ir.Graph)
    name, is_output = old.name, old.is_graph_output()
    new.shape, new.type = old.shape or new.shape, old.type or new.type
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    if is_output:
        old.name, new.name = f"{name}_before", name
    assert node is not None
    prune(node)


def prune(node: ir.Node) -> None:
    """Remove `node` if nobody reads it, and then what it alone has read."""
    waiting = [node]
    while waiting:
        dead = waiting.pop()
        if dead.graph is None or any(value.uses() or value.is_graph_output() for value in dead.outputs):
            continue
        inputs = [value for value in dead.inputs if value is not None]
        graph = dead.graph
        graph.remove(dead, safe=True)
        for value in inputs:
            if (producer := value.producer()) is not None:
                waiting.append(producer)
            elif isinstance(graph, ir.Graph) and value.is_initializer() and not _is_wanted(value):
                graph.initializers.pop(str(value.name), None)


def _is_wanted(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output() or value.is_graph_input()


def only_reader(value: ir.Value) -> ir.Node | None:
    """The one node that reads `value`, once, where no caller of the graph does."""
    uses = list(value.uses())
    return uses[0][0] if len(uses) == 1 and not value.is_graph_output() else None
