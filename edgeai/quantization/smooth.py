"""SmoothQuant: what makes activations hard to quantize moves into the weights that they meet.

G. Xiao et al., "SmoothQuant", 2022, arXiv:2211.10438. Channels that are far larger than the others force one coarse
scale on all of them. With s = max|X|^alpha / max|W|^(1-alpha) for each channel, X W = (X / s) (s W), and both sides are
easier to round. The division goes into the weights of the normalization or Mul that makes X, if nothing else reads it;
otherwise a float Mul stands before the product. What an integer operator has made is rounded already, and left alone.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgeai.comparison import difference
from edgeai.errors import QuantizationError
from edgeai.quantization.calibration import Calibration
from edgeai.quantization.constants import constant
from edgeai.quantization.integer_nodes import QDQ_OPS
from edgeai.quantization.observers import calibration_feeds
from edgeai.quantization.recipe import Setting
from edgeai.quantization.watching import open_watching
from edgeai.spec import Array

_TOLERANCE = 1e-3  # two float graphs that add in another order; a wrong scale is off by far more
_PROVEN_FEEDS = 4


@dataclass(frozen=True)
class Smoothed:
    """The model, and how many tensors were scaled inside their producer, by a new Mul, or left as they are.

    `float_names` are the nodes that hold the scales: rounding those would undo the work.
    """

    model: ir.Model
    folded: int = 0
    multiplied: int = 0
    left: int = 0
    float_names: frozenset[str] = field(default=frozenset())


def smooth(
    model: ir.Model, weighted: Iterable[ir.Node], calibration: Calibration, alpha: float, setting: Setting
) -> Smoothed:
    """A smoothed copy of `model`, for its MatMul and Gemm nodes among `weighted`.

    Raises QuantizationError if the copy does not answer as the model does on the first calibration samples.
    """
    names = {node.name for node in weighted}
    changed = model.clone()
    products: dict[ir.Value, list[ir.Node]] = {}
    for node in changed.graph:
        if node.name in names and node.op_type in ("MatMul", "Gemm") and node.inputs[0] is not None:
            products.setdefault(node.inputs[0], []).append(node)
    done = Smoothed(changed)
    for source, nodes in products.items():
        seen = calibration.tensors.get(str(source.name))
        if seen is not None and seen.channels is not None:
            done = _smooth(done, source, nodes, seen.channels.largest, alpha)
    _prove(model, changed, setting)
    return done


def _smooth(done: Smoothed, source: ir.Value, nodes: list[ir.Node], activations: Array, alpha: float) -> Smoothed:
    graph = done.model.graph
    weights = np.max([np.abs(_rows(node)).max(axis=1) for node in nodes], axis=0)  # (K,)
    with np.errstate(divide="ignore", invalid="ignore"):
        scales = activations**alpha / weights ** (1.0 - alpha)
    # A channel that never was anything, or that meets zeros only, has no say.
    scales = np.where((activations > 0) & (weights > 0), scales, 1.0).clip(1e-5, 1e5).astype(np.float32)
    producer = source.producer()
    alone = not source.is_graph_output() and all(use.node in nodes for use in source.uses())
    if producer is not None and alone and _fold(graph, producer, scales):
        done = replace(done, folded=done.folded + 1)
        if producer.op_type in QDQ_OPS:
            done = replace(done, float_names=done.float_names | {str(producer.name)})
    elif producer is None or producer.op_type not in QDQ_OPS:
        name = f"{source.name}_smooth"
        inverse = constant(graph, f"{name}_scale", 1.0 / scales)
        multiply = ir.node("Mul", [source, inverse], name=name)
        multiply.outputs[0].name, multiply.outputs[0].type = f"{name}_output", source.type
        graph.insert_before(nodes[0], multiply)
        for node in nodes:
            node.replace_input_with(0, multiply.outputs[0])
        done = replace(done, multiplied=done.multiplied + 1, float_names=done.float_names | {name})
    else:
        return replace(done, left=done.left + 1)
    for node in nodes:
        scaled = _rows(node) * scales[:, None]
        array = scaled.T if _transposed(node) else scaled
        node.replace_input_with(1, constant(graph, f"{node.name}_smooth_weight", array))
    return done


def _rows(node: ir.Node) -> Array:
    """The weight (K, N), a view."""
    array = _array(node.inputs[1])
    assert array is not None  # a weighted node
    return array.T if _transposed(node) else array


def _transposed(node: ir.Node) -> bool:
    return node.attributes.get_int("transB", 0) != 0


def _fold(graph: ir.Graph, node: ir.Node, scales: Array) -> bool:
    """Divide what `node` answers by `scales`, inside its own constants; False, and nothing done, if it has none."""
    if node.op_type == "LayerNormalization" and not node.domain:
        positions = [i for i in (1, 2) if i < len(node.inputs) and node.inputs[i] is not None]
    elif node.op_type == "Mul" and not node.domain:
        positions = [i for i in (0, 1) if _array(node.inputs[i]) is not None]
    else:
        return False
    arrays = [_array(node.inputs[i]) for i in positions]
    if not arrays or any(a is None or a.ndim > 1 or a.size not in (1, scales.size) for a in arrays):
        return False
    for position, array in zip(positions, arrays, strict=True):
        assert array is not None
        node.replace_input_with(position, constant(graph, f"{node.name}_smooth_{position}", array / scales))
    return True


def _array(value: ir.Value | None) -> Array | None:
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def _prove(model: ir.Model, changed: ir.Model, setting: Setting) -> None:
    assert setting.samples is not None
    with tempfile.TemporaryDirectory(prefix="edgeai-") as directory:
        sessions = []
        for index, one in enumerate((model, changed)):
            (folder := Path(directory) / str(index)).mkdir()
            sessions.append(open_watching(one, set(), folder / "model.onnx"))
        feeds = itertools.islice(calibration_feeds(setting.signature, setting.samples), _PROVEN_FEEDS)
        for index, feed in enumerate(feeds):
            answers = [session.run(None, dict(feed)) for session in sessions]
            for spec, want, got in zip(setting.signature.outputs, *answers, strict=True):
                error = difference(np.asarray(want), np.asarray(got)).error
                if error > _TOLERANCE:
                    raise QuantizationError(
                        f"{setting.source}: smoothing alone changes {spec.name} by {error:.1e} in sample {index}",
                        hint="leave smooth out",
                    )
