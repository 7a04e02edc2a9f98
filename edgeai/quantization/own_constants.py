"""Weights and biases that no other node reads in another way.

ONNX Runtime's quantizer keeps one form of each constant. A weight has one axis of scales, so two products cannot share
it along different axes; a bias has the scale of its product, so nothing else can read it; and it must have as many
elements as there are scales. Such constants are copied, and a bias that is computed is added in a node of its own.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from edgeai.quantization.constants import constant


def own_constants(graph: ir.Graph, weighted: Iterable[ir.Node]) -> None:
    """Change MatMul, Gemm and Conv nodes with constant weights so that the quantizer gets them right."""
    claimed: dict[ir.Value, int] = {}
    for node in weighted:
        weight = node.inputs[1]
        assert weight is not None and weight.const_value is not None  # a weighted node
        axis = _channels(node)
        if claimed.setdefault(weight, axis) != axis:
            node.replace_input_with(1, constant(graph, f"{node.name}_weight", weight.const_value.numpy()))
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            _own_bias(graph, node, node.inputs[2], weight.const_value.shape.numpy()[axis])


def own_transposed(model: ir.Model) -> None:
    """Give products with Transpose(constant), as exporters write a tied head, a transposed constant of their own."""
    for node in list(model.graph):
        value = node.inputs[1] if node.domain == "" and node.op_type in ("MatMul", "Gemm") else None
        producer = value.producer() if value is not None else None
        if producer is None or (producer.domain, producer.op_type) != ("", "Transpose"):
            continue
        source = producer.inputs[0]
        if (
            source is None
            or source.const_value is None
            or source.is_graph_input()
            or len(source.const_value.shape) != 2
        ):
            continue
        order = producer.attributes.get_ints("perm", (1, 0))
        weight = source.const_value.numpy().transpose(order)
        node.replace_input_with(1, constant(model.graph, f"{node.name}_weight", np.ascontiguousarray(weight)))
    common.RemoveUnusedNodesPass()(model)


def _channels(node: ir.Node) -> int:
    """The axis of the weight that has a scale for each element."""
    return 0 if node.op_type == "Conv" or node.attributes.get_int("transB", 0) == 1 else 1


def _own_bias(graph: ir.Graph, node: ir.Node, bias: ir.Value, number: int) -> None:
    computed = bias.const_value is None or bias.is_graph_input()
    if not computed and bias.const_value is not None:
        array = bias.const_value.numpy()
        flat = array.size in (1, number)
        if flat and (array.shape != (number,) or len(tuple(bias.uses())) > 1):
            array = np.broadcast_to(array.reshape(-1), (number,))
            node.replace_input_with(2, constant(graph, f"{node.name}_bias", array))
            return
        computed = not flat  # one bias a row: constant, but nothing that a product can add
    if computed and node.op_type == "Gemm":
        _add_apart(graph, node, bias)


def _add_apart(graph: ir.Graph, node: ir.Node, bias: ir.Value) -> None:
    output = node.outputs[0]
    product = ir.Value(name=f"{output.name}_product", type=output.type)
    bare = ir.node("Gemm", node.inputs[:2], attributes=node.attributes, outputs=[product], name=node.name)
    add = ir.node("Add", [product, bias], name=f"{node.name}_add_bias")
    add.outputs[0].name, add.outputs[0].type, add.outputs[0].shape = output.name, output.type, output.shape
    ir.convenience.replace_nodes_and_values(graph, node, [node], [bare, add], [output], [add.outputs[0]])
