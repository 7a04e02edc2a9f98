"""Random small ONNX graphs as they come from anywhere: see `corpus_blocks` for what they are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from hypothesis import assume
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgeai.spec import Array

from .corpus_blocks import Builder, Shape, Value, blocks_for

Feed = dict[str, Array]

_BATCHES = (4, 1, 3, 5, 2, 4)
_FLOAT = TensorProto.FLOAT


@dataclasses.dataclass(frozen=True)
class Graph:
    """`calibration` to quantize with, `fresh` to compare with; `external`: to be saved with its weights beside it."""

    model: onnx.ModelProto
    calibration: list[Feed]
    fresh: Feed
    external: bool
    blocks: tuple[str, ...]


def _source(b: Builder) -> Value:
    kind = b.choose("features", "sequence", "image", "ids")
    if kind == "ids":
        ids = b.input("ids", "int64", "n", 5)
        return Value(b.node("Gather", b.weight(20, 16), ids.name), ("n", 5, 16))
    shape = {"features": ("n", 16), "sequence": ("n", 6, 16), "image": ("n", 3, 6, 6)}[kind]
    return b.input("x", "float32", *shape)


@st.composite
def graphs(draw: Callable[..., Any]) -> Graph:
    """Valid graphs that ONNX Runtime opens and that answer finite values."""
    b = Builder(draw(st.randoms(use_true_random=True)))
    x = _source(b)
    first = x
    b.values.append(x)
    used = []
    for _ in range(b.choose(1, 2, 3, 4, 5, 6)):
        block = b.choose(*blocks_for(b, x))
        used.append(block.__name__.strip("_"))
        x = block(b, x)
        b.values.append(x)
    # An output that is just computed, or is read on, is a constant, an input, or has no elements.
    outputs = {x.name: x}
    if (extra := b.choose("none", "none", "none", "middle", "constant", "input", "empty")) == "middle":
        middle = b.choose(*b.values[1:])
        outputs[middle.name] = middle
    elif extra == "constant":
        b.initializer(b.array(4, 4))
        constant = b.choose(*[tensor for tensor in b.initializers if tensor.data_type == _FLOAT])
        outputs[constant.name] = Value(constant.name, tuple(constant.dims))
    elif extra == "input" and first.name in b.inputs:
        outputs[first.name] = first
    elif extra == "empty":
        empty = b.node("MatMul", x.name, b.weight(x.shape[-1], 0))
        outputs[empty] = Value(empty, (*x.shape[:-1], 0))
    batch = b.choose("n", 4)
    model = _model(b, outputs, batch)
    sizes = _BATCHES if batch == "n" else (batch,) * len(_BATCHES)
    feeds = [_feed(b, size) for size in sizes]
    assume(_answers(model, feeds))
    return Graph(model, feeds[:-1], feeds[-1], b.choose(False, False, True), tuple(used))


def _model(b: Builder, outputs: dict[str, Value], batch: int | str) -> onnx.ModelProto:
    dtypes = {"float32": _FLOAT, "bool": TensorProto.BOOL, "int64": TensorProto.INT64}

    def info(name: str, dtype: int, shape: Shape) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, dtype, [batch if axis == "n" else axis for axis in shape])

    inputs = [info(name, dtypes[dtype], shape) for name, (dtype, shape) in b.inputs.items()]
    if b.ir_version < 4 or b.choose(False, False, True):
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in b.initializers]
    results = [info(value.name, _FLOAT, value.shape) for value in outputs.values()]
    graph = helper.make_graph(b.nodes, "g", inputs, results, b.initializers)
    opsets = [helper.make_opsetid("", b.opset)] + [helper.make_opsetid("local", 1)] * bool(b.functions)
    return helper.make_model(graph, ir_version=b.ir_version, opset_imports=opsets, functions=b.functions)


def _feed(b: Builder, batch: int) -> Feed:
    generator = np.random.default_rng(batch)
    feed: Feed = {}
    for name, (dtype, shape) in b.inputs.items():
        sizes = [batch if axis == "n" else int(axis) for axis in shape]
        drawn = generator.integers(0, 20 if dtype == "int64" else 2, sizes)
        feed[name] = np.asarray(generator.standard_normal(sizes) if dtype == "float32" else drawn, dtype)
    return feed


def _answers(model: onnx.ModelProto, feeds: list[Feed]) -> bool:
    """Whether the file is one that its author could use."""
    try:
        onnx.checker.check_model(model, full_check=True)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return all(np.isfinite(got).all() for feed in feeds for got in session.run(None, feed))
    except Exception:  # the checker's and ONNX Runtime's exceptions share no other base
        return False
