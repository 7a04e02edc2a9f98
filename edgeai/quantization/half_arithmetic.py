"""Turn the float32 arithmetic of a graph into half precision where it fits, with Casts where the two meet."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from edgeai.quantization.coverage import WEIGHTED_OPS
from edgeai.quantization.half import Half
from edgeai.quantization.schemas import half_positions
from edgeai.quantization.tidying import tidy

# What sums or spreads so much that half precision answers differently though every value fits.
WIDE_OPS = frozenset({
    "CumSum", "Range", "Pow", "Exp", "Log", "Sqrt", "Reciprocal", "Mod", "ReduceSum", "ReduceMean", "ReduceL1",
    "ReduceL2", "ReduceProd", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare", "InstanceNormalization",
    "LogSoftmax", "Cast", "CastLike", "If", "Loop", "Scan",
})  # fmt: skip

# What makes a region of half precision worth the Casts around it.
_PRODUCTS = frozenset(WEIGHTED_OPS) | {"MultiHeadAttention", "GroupQueryAttention", "SkipLayerNormalization"}

# What looks at a tensor's shape reads any dtype.
_SHAPE_OPS = frozenset({"Shape", "Size"})


class Converter:
    """Decides node by node, then rewrites. `kept` says why each node that could be half stays float32."""

    def __init__(self, model: ir.Model, half: Half, reached: Mapping[str, float], exclude: frozenset[str]) -> None:
        self._model, self._half, self._reached = model, half, reached
        self._constants: dict[ir.Value, ir.TensorProtocol | None] = {}
        self._values: dict[ir.Value, ir.Value] = {}  # float32 -> half
        self.kept: dict[str, str] = {}
        self.casts = 0
        self._chosen = {node for node in model.graph if self._fits(node, exclude)}
        self._drop_regions_without_products()

    def convert(self) -> int:
        """Rewrite the graph; how many nodes compute in half precision now."""
        for node in list(self._model.graph):
            if node in self._chosen:
                inputs, outputs = half_positions(node, self._model)
                for position in inputs:
                    value = node.inputs[position]
                    if value is not None and self._is_float(value):
                        node.replace_input_with(position, self._halved(value))
                for position in outputs:
                    if self._is_float(node.outputs[position]):
                        self._restore(node.outputs[position])
        tidy(self._model)
        return len(self._chosen)

    def _fits(self, node: ir.Node, exclude: frozenset[str]) -> bool:
        inputs, outputs = half_positions(node, self._model)
        floats = [node.inputs[i] for i in inputs] + [node.outputs[i] for i in outputs]
        values = [value for value in floats if value is not None and self._is_float(value)]
        followed = {id(node.outputs[i]) for i in outputs}
        if not any(id(value) in followed for value in values) or not any(node.inputs[i] in values for i in inputs):
            return False  # computes no float32 from float32
        if reason := self._obstacle(node, values, followed, exclude):
            self.kept[str(node.name)] = reason
        return not reason

    def _obstacle(self, node: ir.Node, values: list[ir.Value], followed: set[int], exclude: frozenset[str]) -> str:
        """Why the node stays float32; empty if it need not."""
        if node.name in exclude:
            return "excluded"
        if node.op_type in WIDE_OPS:
            return node.op_type
        if any(self._is_float(value) and id(value) not in followed for value in node.outputs):
            return "an output has no half form"
        constants = [value for value in values if value.is_initializer()]
        for value in constants:
            if self._constant(value) is None:
                return f"{value.name} cannot be rounded"
        for value in values:
            if value not in constants and (reached := self._reached[str(value.name)]) > self._half.allowed:
                return f"{value.name} reaches {reached:.3g}"
        return ""

    def _drop_regions_without_products(self) -> None:
        """Two Casts for a Relu buy nothing."""
        pending = set(self._chosen)
        while pending:
            region, frontier = set(), [next(iter(pending))]
            while frontier:
                node = frontier.pop()
                if node not in pending:
                    continue
                pending.remove(node)
                region.add(node)
                frontier += [producer for v in node.inputs if v is not None and (producer := v.producer()) is not None]
                frontier += [user for value in node.outputs for user, _ in value.uses()]
            if not any(node.op_type in _PRODUCTS for node in region):
                self._chosen -= region

    def _is_float(self, value: ir.Value) -> bool:
        if value.is_initializer() and value.const_value is not None:
            return value.const_value.dtype is ir.DataType.FLOAT and not value.is_graph_input()
        return str(value.name) in self._reached

    def _constant(self, value: ir.Value) -> ir.TensorProtocol | None:
        if value not in self._constants:
            assert value.const_value is not None
            array = self._half.rounded(value.const_value.numpy())
            self._constants[value] = None if array is None else ir.Tensor(array, dtype=self._half.dtype)
        return self._constants[value]

    def _halved(self, value: ir.Value) -> ir.Value:
        """The half form of a float32 value: another constant, or a Cast where it is computed."""
        if value not in self._values:
            name = f"{value.name}_{self._half.dtype.name.lower()}"
            if value.const_value is not None and value.is_initializer():
                tensor = self._constant(value)
                assert tensor is not None
                half = ir.Value(name=name, shape=value.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
                while half.name in self._model.graph.initializers:
                    half.name = f"{half.name}_"
                self._model.graph.register_initializer(half)
            else:
                half = self._cast(value, self._half.dtype, name)
            self._values[value] = half
        return self._values[value]

    def _restore(self, value: ir.Value) -> None:
        """A half node computes `value` from now on; whoever needs float32 gets it from a Cast."""
        readers = [(user, index) for user, index in value.uses() if not self._reads_half(user, index)]
        output = value.is_graph_output()
        name = str(value.name)
        self._values[value] = value
        if readers or output:
            value.name = f"{name}_{self._half.dtype.name.lower()}"
            back = self._cast(value, ir.DataType.FLOAT, name)
            back.shape = value.shape
            for user, index in readers:
                user.replace_input_with(index, back)
            if output:
                outputs = self._model.graph.outputs
                outputs[list(outputs).index(value)] = back
        value.type = ir.TensorType(self._half.dtype)

    def _reads_half(self, user: ir.Node, index: int) -> bool:
        return user.op_type in _SHAPE_OPS or (user in self._chosen and index in half_positions(user, self._model)[0])

    def _cast(self, value: ir.Value, dtype: ir.DataType, name: str) -> ir.Value:
        node = ir.node("Cast", [value], {"to": dtype}, name=f"{name}_cast")
        node.outputs[0].name, node.outputs[0].type = name, ir.TensorType(dtype)
        producer = value.producer()
        if producer is not None:
            self._model.graph.insert_after(producer, node)
        else:
            self._model.graph.insert_before(self._model.graph[0], node)
        self.casts += 1
        return node.outputs[0]
