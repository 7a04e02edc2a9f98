"""What passes need to know of constant values: which tensor one holds, and how to add one."""

from __future__ import annotations

import onnx_ir as ir


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of an initializer or a Constant node; None where it may change from run to run."""
    if value is None or value.is_graph_input():  # an initializer that is also an input may be overridden
        return None
    return ir.convenience.get_const_tensor(value)


def add_initializer(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """Add `tensor` to `graph` under `name`, or under the next free name like it."""
    taken = {value.name for node in graph for value in node.outputs} | {value.name for value in graph.inputs}
    taken |= graph.initializers.keys()
    free, count = name, 1
    while free in taken:
        free, count = f"{name}_{count}", count + 1
    value = ir.Value(
        name=free, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value
