"""New constants in a graph."""

from __future__ import annotations

import onnx_ir as ir

from edgeai.quantization.recipe import Store, in_memory
from edgeai.spec import Array


def constant(graph: ir.Graph, name: str, array: Array, store: Store = in_memory) -> ir.Value:
    """Register `array` as an initializer; a name that is taken gets underscores."""
    taken = {value.name for value in graph.inputs} | {value.name for node in graph for value in node.outputs}
    while name in graph.initializers or name in taken:
        name += "_"
    tensor = store(name, array)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
