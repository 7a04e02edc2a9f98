"""Attention of a row that may see nothing: torch answers zeros, and so must the graph.

torch's exporter hides what may not be seen behind the lowest float and writes zeros wherever the Softmax of that is
NaN, but it never is: a row that is hidden throughout gets equal shares. (With causal attention the padding on the left
of a text is such a row.) So the test has to be of what goes into the Softmax.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir


def guard_masked_rows(model: ir.Model) -> bool:
    """Have every `Where(IsNaN(Softmax(x)), 0, Softmax(x))` ask for rows of x that are hidden throughout.

    Returns whether there was one. Below opset 18, where ReduceMax is another operator, nothing is done.
    """
    if model.opset_imports.get("", 0) < 18:
        return False
    found = [node for node in model.graph if node.op_type == "Where" and _guarded_softmax(node) is not None]
    for index, node in enumerate(found):
        _rewrite(model.graph, node, f"masked_rows_{index}")
    return bool(found)


def _rewrite(graph: ir.Graph, where: ir.Node, name: str) -> None:
    softmax, test = _guarded_softmax(where), where.inputs[0]
    assert softmax is not None and softmax.inputs[0] is not None and test is not None
    dtype = (softmax.outputs[0].dtype or ir.DataType.FLOAT).numpy()
    # Half of the lowest float: scores and the lowest add up to about the lowest, or to minus infinity.
    lowest = np.array(float(ml_dtypes.finfo(dtype).min) / 2, dtype)  # type: ignore[no-untyped-call]
    constants = [
        ir.Value(
            name=f"{name}_{what}", shape=ir.Shape(array.shape), const_value=ir.tensor(array, name=f"{name}_{what}")
        )
        for what, array in (("axes", np.array([-1], np.int64)), ("lowest", lowest))
    ]
    for value in constants:
        assert value.const_value is not None
        value.type = ir.TensorType(value.const_value.dtype)
        graph.register_initializer(value)
    highest = ir.node("ReduceMax", [softmax.inputs[0], constants[0]], {"keepdims": 1}, name=f"{name}_highest")
    hidden = ir.node("LessOrEqual", [highest.outputs[0], constants[1]], name=f"{name}_hidden")
    for node in (highest, hidden):
        node.outputs[0].name = f"{node.name}_output"
    graph.insert_before(where, [highest, hidden])
    where.replace_input_with(0, hidden.outputs[0])
    asks = test.producer()
    if asks is not None and not test.uses() and not test.is_graph_output():
        graph.remove(asks, safe=True)


def _guarded_softmax(where: ir.Node) -> ir.Node | None:
    """The Softmax over the last axis that `where` guards against NaN."""
    test, kept = where.inputs[0], where.inputs[2]
    asks = test.producer() if test is not None else None
    softmax = kept.producer() if kept is not None else None
    if asks is None or softmax is None or asks.op_type != "IsNaN" or softmax.op_type != "Softmax":
        return None
    rank = len(kept.shape) if kept is not None and kept.shape is not None else 0
    return softmax if asks.inputs[0] is kept and softmax.attributes.get_int("axis", -1) in (-1, rank - 1) else None
