"""Parts of random ONNX graphs: every operator, dtype, rank and habit of naming that files come with."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeai.spec import Array

Shape = tuple[int | str, ...]

# The IR version that came with an opset: before 4, every initializer is an input too.
_IR_VERSIONS = {7: 3, 8: 3, 9: 4, 10: 5, 11: 6, 12: 7, 13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10}
_FLOAT = TensorProto.FLOAT
_OTHER_FLOATS = {"float16": TensorProto.FLOAT16, "float64": TensorProto.DOUBLE}


@dataclasses.dataclass(frozen=True)
class Value:
    name: str
    shape: Shape  # axis 0 is "n"

    @property
    def rank(self) -> int:
        return len(self.shape)


class Builder:
    """Collects nodes. One seed makes every choice: hypothesis, asked for each, gives the same few graphs again."""

    def __init__(self, chance: random.Random) -> None:
        self._chance, self.opset = chance, chance.choice((chance.randint(7, 12), chance.randint(13, 26)))
        self.ir_version = _IR_VERSIONS.get(self.opset, 10 if self.opset < 23 else 11)
        self._random = np.random.default_rng(chance.randrange(1 << 32))
        self._named = self.choose(True, False)
        self._count = 0
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: dict[str, tuple[str, Shape]] = {}
        self.functions: list[onnx.FunctionProto] = []
        self.values: list[Value] = []
        self._weights: dict[tuple[Any, ...], str] = {}

    def choose(self, *options: Any) -> Any:
        return self._chance.choice(options)

    def fresh(self, stem: str) -> str:
        """A name; now and then one that a quantizer would like to give to something of its own."""
        self._count += 1
        taken = f"{stem}{self._count - 1}{self.choose('_scale', '_quantized', '_zero_point', '_float16', '_cast')}"
        return taken if self._chance.random() < 0.05 else f"{stem}{self._count}"

    def array(self, *shape: int | str, dtype: str = "float32") -> Array:
        """Random weights that neither blow up nor vanish in a product; or zeros."""
        sizes = [size for size in shape if isinstance(size, int)]
        scale = 1 / np.sqrt(max(1, np.prod(sizes[:-1]) if len(sizes) > 1 else 1))
        return np.asarray(self._random.standard_normal(sizes) * scale * self.choose(*[1] * 15, 0), dtype)

    def node(self, op: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> str:
        """Append a node; the name of its first output."""
        names = [self.fresh(op.lower()) for _ in range(outputs)]
        label = f"node{self._count}" if self._named else ""
        self.nodes.append(helper.make_node(op, inputs, names, name=label, domain=domain, **attributes))
        return names[0]

    def initializer(self, array: Array) -> str:
        name = self.fresh("w")
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int | str, dtype: str = "float32") -> str:
        """A constant in one of the places where files keep them; some are used twice."""
        key = (*shape, dtype)
        form = self.choose("initializer", "initializer", "constant", "shared", "transposed")
        if form == "shared" and key in self._weights:
            return self._weights[key]
        array = self.array(*shape, dtype=dtype)
        if form == "constant":
            return self.node("Constant", value=numpy_helper.from_array(array))
        if form == "transposed":
            return self.node("Transpose", self.initializer(np.ascontiguousarray(array.T)))
        self._weights[key] = self.initializer(array)
        return self._weights[key]

    def integers(self, *values: int) -> str:
        return self.initializer(np.array(values, np.int64))

    def input(self, stem: str, dtype: str, *shape: int | str) -> Value:
        name = stem if stem not in self.inputs else self.fresh(stem)
        self.inputs[name] = (dtype, shape)
        return Value(name, shape)

    def subgraph(self, name: str, source: Value, **edges: Any) -> onnx.GraphProto:
        """`source` times a matrix of the body's own, or of the graph around it."""
        width, around = source.shape[-1], self.choose(False, False, True)
        named = self.choose(self.fresh, str)  # bodies beside each other may use the same names
        result, matrix = named("result"), self.weight(width, width) if around else named("inner")
        body = [helper.make_node("MatMul", [source.name, matrix], [result], name="node1")]  # as in the main graph
        own = [] if around else [numpy_helper.from_array(self.array(width, width), matrix)]
        if self.ir_version < 4 and own:
            body.insert(0, helper.make_node("Constant", [], [matrix], value=own.pop()))
        outputs = [helper.make_tensor_value_info(result, _FLOAT, None)]
        if len(edges.get("inputs", ())) > 1:
            body.append(helper.make_node("Identity", [edges["inputs"][1].name], [name + "_goes_on"]))
            outputs.insert(0, helper.make_tensor_value_info(name + "_goes_on", TensorProto.BOOL, []))
        return helper.make_graph(body, name, edges.get("inputs", []), outputs, own)


Block = Callable[[Builder, Value], Value]


def _matmul(b: Builder, x: Value) -> Value:
    width = b.choose(16, 8, 1, 3, 48)
    return Value(b.node("MatMul", x.name, b.weight(x.shape[-1], width)), (*x.shape[:-1], width))


def _stacked_matmul(b: Builder, x: Value) -> Value:
    return Value(b.node("MatMul", x.name, b.weight(1, x.shape[-1], 8)), (*x.shape[:-1], 8))


def _vector_matmul(b: Builder, x: Value) -> Value:
    """A matrix times a vector, and the lost axis back."""
    product = b.node("MatMul", x.name, b.weight(x.shape[-1]))
    return Value(b.node("Reshape", product, b.integers(-1, 1)), ("n", 1))


def _weight_first(b: Builder, x: Value) -> Value:
    return Value(b.node("MatMul", b.weight(8, x.shape[-2]), x.name), (*x.shape[:-2], 8, x.shape[-1]))


def _nothing_summed(b: Builder, x: Value) -> Value:
    """Two products with matrices of no size: zeros."""
    return Value(
        b.node("MatMul", b.node("MatMul", x.name, b.weight(x.shape[-1], 0)), b.weight(0, 8)), (*x.shape[:-1], 8)
    )


def _gemm(b: Builder, x: Value) -> Value:
    width, attributes, source = b.choose(8, 16, 1), {}, x.name
    for name in ("alpha", "beta"):
        if factor := b.choose(None, None, 0.5, -2.0):
            attributes[name] = factor
    transposed, turned = b.choose(0, 1), b.choose(0, 0, 1)
    if turned:
        source = b.node("Transpose", source)
    weight = b.weight(width, x.shape[1]) if transposed else b.weight(x.shape[1], width)
    bias = b.choose((width,), (1, width), (1,), (), None)
    if bias is None and b.opset < 11:
        bias = (width,)
    extra = [] if bias is None else [b.weight(*bias)]
    return Value(b.node("Gemm", source, weight, *extra, transB=transposed, transA=turned, **attributes), ("n", width))


def _conv(b: Builder, x: Value) -> Value:
    spatial, channels, groups = x.rank - 2, x.shape[1], b.choose(1, 1, 2)
    assert isinstance(channels, int)
    if channels % groups:
        groups = 1
    out, stride = b.choose(4, 8, 2), b.choose(1, 2)
    name = b.node(
        "Conv", x.name, b.weight(out, channels // groups, *[3] * spatial), *([b.weight(out)] if b.choose(1, 0) else []),
        group=groups, pads=[1] * (2 * spatial), strides=[stride] * spatial,
    )  # fmt: skip
    return Value(name, ("n", out, *(-(-int(size) // stride) for size in x.shape[2:])))


def _conv_transpose(b: Builder, x: Value) -> Value:
    spatial = x.rank - 2
    name = b.node("ConvTranspose", x.name, b.weight(x.shape[1], 4, *[2] * spatial), strides=[2] * spatial)
    return Value(name, ("n", 4, *(2 * int(size) for size in x.shape[2:])))


def _pool(b: Builder, x: Value) -> Value:
    spatial, op = x.rank - 2, b.choose("MaxPool", "AveragePool", "GlobalAveragePool")
    if op == "GlobalAveragePool":
        return Value(b.node(op, x.name), (*x.shape[:2], *[1] * spatial))
    return Value(b.node(op, x.name, kernel_shape=[1] * (spatial - 1) + [2]), (*x.shape[:-1], int(x.shape[-1]) - 1))


def _batch_norm(b: Builder, x: Value) -> Value:
    constants = [b.weight(x.shape[1]) for _ in range(3)]
    variance = b.initializer(np.abs(b.array(x.shape[1])) + np.float32(0.5))
    return Value(b.node("BatchNormalization", x.name, *constants, variance), x.shape)


def _constant(b: Builder, x: Value) -> Value:
    """Add or Mul with a constant of fewer, as many, or no axes, on either side."""
    shape = b.choose((), (1,), (x.shape[-1],), (1,) * (x.rank - 1) + x.shape[-1:], (1, *x.shape[1:]))
    sides = [x.name, b.weight(*shape)]
    return Value(b.node(b.choose("Add", "Mul"), *(sides if b.choose(True, False) else sides[::-1])), x.shape)


def _activation(b: Builder, x: Value) -> Value:
    return Value(
        b.node(b.choose("Relu", "Sigmoid", "Tanh", "Softmax", "Identity", "LeakyRelu", "Neg"), x.name), x.shape
    )


def _clip(b: Builder, x: Value) -> Value:
    if b.opset < 11:
        return Value(b.node("Clip", x.name, min=-1.0, max=1.0), x.shape)
    low = b.choose("", b.initializer(np.array(-1, np.float32)))
    return Value(b.node("Clip", x.name, low, b.initializer(np.array(1, np.float32))), x.shape)


def _layer_norm(b: Builder, x: Value) -> Value:
    return Value(b.node("LayerNormalization", x.name, b.weight(x.shape[-1]), b.weight(x.shape[-1])), x.shape)


def _shortcut(b: Builder, x: Value) -> Value:
    """Add something of the same shape from farther up."""
    other = b.choose(*[value for value in b.values if value.shape == x.shape])
    return Value(b.node("Add", x.name, other.name), x.shape)


def _halves(b: Builder, x: Value) -> Value:
    """Split and Concat in the other order; with a part of no size."""
    half = int(x.shape[-1]) // 2
    if half < 1 or int(x.shape[-1]) % 2:
        return x
    names = [b.fresh("half"), b.fresh("half")]
    sizes = {"split": [half, half]} if b.opset < 13 else {}
    inputs = [x.name] if b.opset < 13 else [x.name, b.integers(half, half)]
    b.nodes.append(helper.make_node("Split", inputs, names, axis=x.rank - 1, **sizes))
    joined = b.node("Concat", names[1], names[0], axis=x.rank - 1)
    empty = b.initializer(np.zeros((0, *x.shape[1:]), np.float32))
    return Value(b.node("Concat", joined, empty, axis=0), x.shape)


def _transpose(b: Builder, x: Value) -> Value:
    perm = [0, *range(x.rank - 1, 0, -1)]
    return Value(b.node("Transpose", x.name, perm=perm), tuple(x.shape[i] for i in perm))


def _flatten(b: Builder, x: Value) -> Value:
    width = int(np.prod([int(size) for size in x.shape[1:]]))
    return Value(b.node("Reshape", x.name, b.integers(0, -1)), ("n", width))


def _unflatten(b: Builder, x: Value) -> Value:
    return Value(b.node("Reshape", x.name, b.integers(0, 1, x.shape[1])), ("n", 1, x.shape[1]))


def _recurrent(b: Builder, x: Value) -> Value:
    """LSTM, GRU or RNN along axis 0, in one direction or both, with optional inputs left out in the middle."""
    op, width, hidden = b.choose("LSTM", "LSTM", "GRU", "RNN"), x.shape[2], 8
    direction = b.choose("forward", "reverse", "bidirectional")
    gates, ways = {"LSTM": 4, "GRU": 3, "RNN": 1}[op] * hidden, 2 if direction == "bidirectional" else 1
    tail = b.choose([], [b.weight(ways, 2 * gates)], ["", "", b.initializer(b.array(ways, x.shape[1], hidden))])
    weights = b.weight(ways, gates, width), b.weight(ways, gates, hidden)
    result = b.node(op, x.name, *weights, *tail, hidden_size=hidden, direction=direction)
    first = b.node("Transpose", result, perm=[0, 2, 1, 3])  # both directions of a step beside each other
    return Value(b.node("Reshape", first, b.integers(0, -1, ways * hidden)), (*x.shape[:2], ways * hidden))


def _attention(b: Builder, x: Value) -> Value:
    query, key = (b.node("MatMul", x.name, b.weight(x.shape[2], 8)) for _ in range(2))
    scores = b.node("MatMul", query, b.node("Transpose", key, perm=[0, 2, 1]))
    return Value(b.node("MatMul", b.node("Softmax", scores, axis=2), x.name), x.shape)


def _branch(b: Builder, x: Value) -> Value:
    name = b.choose(lambda: b.input("c", "bool").name, lambda: b.initializer(np.array(True)))()
    branches = {f"{which}_branch": b.subgraph(b.fresh(which), x) for which in ("then", "else")}
    return Value(b.node("If", name, **branches), x.shape)


def _loop(b: Builder, x: Value) -> Value:
    names = [b.fresh("loop") for _ in range(3)]
    kinds = (TensorProto.INT64, []), (TensorProto.BOOL, []), (_FLOAT, None)
    inputs = [helper.make_tensor_value_info(name, *kind) for name, kind in zip(names, kinds, strict=True)]
    body = b.subgraph(b.fresh("body"), Value(names[2], x.shape), inputs=inputs)
    trips, goes_on = b.initializer(np.array(2, np.int64)), b.initializer(np.array(True))
    return Value(b.node("Loop", trips, goes_on, x.name, body=body), x.shape)


def _scan(b: Builder, x: Value) -> Value:
    """Along the first axis that is not the batch; the body carries nothing on."""
    if b.opset < 9:
        return x
    row = b.fresh("row")
    rest = [helper.make_tensor_value_info(row, _FLOAT, None)]
    body = b.subgraph(b.fresh("scan"), Value(row, (*x.shape[:1], *x.shape[2:])), inputs=rest)
    axes = {"scan_input_axes": [1], "scan_output_axes": [1]}
    return Value(b.node("Scan", x.name, body=body, num_scan_inputs=1, **axes), x.shape)


def _dequantized(b: Builder, x: Value) -> Value:
    """A product that somebody has quantized already: a scale for the tensor, or for each channel, transposed or not."""
    if b.opset < 10:
        return x
    channels, turned = b.opset >= 13 and b.choose(True, False), b.choose(True, False)
    codes = b.initializer(np.asarray(b.array(*((8, x.shape[-1]) if turned else (x.shape[-1], 8))) * 100, np.int8))
    scale = b.initializer(np.full(8 if channels else (), 0.01, np.float32))
    weight = b.node("DequantizeLinear", codes, scale, **({"axis": 0 if turned else 1} if channels else {}))
    weight = b.node("Transpose", weight) if turned else weight
    return Value(b.node("MatMul", x.name, weight), (*x.shape[:-1], 8))


def _island(b: Builder, x: Value) -> Value:
    """A product in another dtype."""
    dtype = b.choose("float64", "float16")
    inside = b.node("Cast", x.name, to=_OTHER_FLOATS[dtype])
    product = b.node("MatMul", inside, b.weight(x.shape[-1], 8, dtype=dtype))
    return Value(b.node("Cast", product, to=_FLOAT), (*x.shape[:-1], 8))


def _function(b: Builder, x: Value) -> Value:
    """A product inside a model-local function, whose weight is its parameter or its own."""
    name, array = b.fresh("linear"), b.array(x.shape[-1], 8)
    parameter, body, inputs = ["x"], [], [x.name]
    if b.choose(True, False):
        parameter, inputs = ["x", "w"], [x.name, b.initializer(array)]
    else:
        body = [helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(array))]
    body.append(helper.make_node("MatMul", ["x", "w"], ["y"]))
    opsets = [helper.make_opsetid("", b.opset)]
    b.functions.append(helper.make_function("local", name, parameter, ["y"], body, opsets))
    return Value(b.node(name, *inputs, domain="local"), (*x.shape[:-1], 8))


def _scalar(b: Builder, x: Value) -> Value:
    return Value(b.node("Mul", x.name, b.input("s", "float32").name), x.shape)


def blocks_for(b: Builder, x: Value) -> list[Block]:
    """What fits a tensor of this rank."""
    found: list[Block] = [_matmul, _constant, _activation, _clip, _shortcut, _halves, _branch, _loop, _island, _scalar]
    found += [_nothing_summed] if b.choose(*[False] * 3, True) else []
    found += [_dequantized] if b.choose(*[False] * 9, True) else []
    if x.rank == 2:
        found += [_gemm, _gemm, _vector_matmul, _unflatten]
    else:
        found += [_conv, _conv, _conv_transpose, _pool, _weight_first, _batch_norm, _transpose, _flatten]
    if x.rank == 3:
        found += [_stacked_matmul, _recurrent, _recurrent, _attention, _scan]
    if b.opset >= 17:
        found.append(_layer_norm)
    if b.ir_version >= 8:
        found.append(_function)
    return found
