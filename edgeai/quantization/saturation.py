"""Would uint8 x int8 products be summed wrongly on an x86 CPU without integer dot products?

Such a CPU (AVX2, AVX512 without VNNI) adds two neighbouring products in 16 bits and clamps the sum (Intel's manual,
VPMADDUBSW; onnxruntime docs, "When to use reduce-range or per-channel quantization"). Two products of 255 and 127 do
not fit. Whether it happens depends on the weights and on what stands in the activations at the same time, so it is
judged from the channels that calibration saw, whatever the CPU that this runs on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeai.machine import Machine
from edgeai.quantization.calibration import Calibration
from edgeai.quantization.integer_nodes import WEIGHTED, watched
from edgeai.quantization.ranges import Range
from edgeai.quantization.weights import quantize_weight
from edgeai.spec import Array

_MARGIN = 1.5  # a channel may hold more than calibration saw of it
_SMALLEST, _LARGEST = -(2**15), 2**15 - 1
_LEVELS = 255
_TOGETHER = 1 << 20  # products at a time: several copies of them are in memory


@dataclass(frozen=True)
class Saturation:
    """Of all neighbouring products, `clamped` of `pairs` leave 16 bits where both channels are at their largest.

    `nodes` has the share of each node that has any.
    """

    pairs: int
    clamped: int
    nodes: Mapping[str, float]

    def needs_reduced_range(self, target: Machine) -> bool:
        return self.clamped > 0 and not target.has_int8_dot_product


def saturation(
    nodes: Iterable[ir.Node],
    ranges: Mapping[str, Range],
    calibration: Calibration,
    *,
    per_channel: bool,
    symmetric: bool,
) -> Saturation:
    """Of the MatMul, Gemm and Conv nodes whose weights become int8 with all eight bits.

    `symmetric`: zero is the middle of the activations' range, so that a silent channel stands at 128. Activations may
    be uint8 or int8, which kernels shift to uint8.
    """
    pairs, clamped, shares = 0, 0, {}
    for node in nodes:
        value, weight = node.inputs[:2] if node.op_type in WEIGHTED else (None, None)
        found = ranges.get(str(value.name)) if value is not None else None
        if value is None or weight is None or weight.const_value is None or found is None:
            continue
        if symmetric:
            found = Range(-max(-found.low, found.high), max(-found.low, found.high))
        largest = _largest(calibration, node, str(value.name))
        over, of = 0, 0
        for matrix, inputs in _matrices(node, weight.const_value.numpy()):
            low, high = _integers(found, largest, inputs)
            integers = quantize_weight(
                matrix, dtype="int8", per_channel=per_channel, reduce_range=False, name=str(weight.name)
            )
            sums = clamped_pairs(integers.values, low, high)
            over, of = over + int(np.count_nonzero(sums)), of + sums.size
        pairs, clamped = pairs + of, clamped + over
        if over:
            shares[str(node.name)] = over / of
    return Saturation(pairs, clamped, shares)


def clamped_pairs(weight: Array, low: Array, high: Array) -> Array:
    """Which sums of two products can leave 16 bits: (ceil(K / 2), N), bool.

    `weight` (K, N) int8; each activation lies between `low` and `high` (K,), integers of 0..255.
    """
    inputs, outputs = weight.shape
    if inputs % 2:  # kernels fill up with zeros
        weight = np.concatenate([weight, np.zeros((1, outputs), weight.dtype)])
        low, high = np.append(low, 0), np.append(high, 0)
    lows, highs = (bound.astype(np.int32)[:, None] for bound in (low, high))
    found = np.zeros((len(weight) // 2, outputs), np.bool_)
    columns = max(1, _TOGETHER // len(weight))
    for start in range(0, outputs, columns):
        part = weight[:, start : start + columns].astype(np.int32)
        largest, smallest = np.maximum(part * lows, part * highs), np.minimum(part * lows, part * highs)
        over, under = largest[::2] + largest[1::2] > _LARGEST, smallest[::2] + smallest[1::2] < _SMALLEST
        found[:, start : start + columns] = over | under
    return found


def _matrices(node: ir.Node, weight: Array) -> Iterable[tuple[Array, Array]]:
    """Matrices (K, N) in the order in which kernels sum over K, and the input channel that each row multiplies."""
    if node.op_type != "Conv":
        matrix = weight.T if node.attributes.get_int("transB", 0) else weight
        return [(matrix, np.arange(len(matrix)))]
    groups = node.attributes.get_int("group", 1)
    outputs, inside, taps = weight.shape[0] // groups, weight.shape[1], int(np.prod(weight.shape[2:]))
    grouped = weight.reshape(groups, outputs, inside, taps).transpose(0, 3, 2, 1)  # channels last, as kernels have it
    rows = np.tile(np.arange(inside), taps)
    return [(grouped[group].reshape(taps * inside, outputs), rows + group * inside) for group in range(groups)]


def _largest(calibration: Calibration, node: ir.Node, name: str) -> Array | None:
    """Of each channel that `node` sums over; None where another reader of the tensor has channels on another axis."""
    seen = calibration.tensors.get(name)
    channels = seen.channels if seen is not None else None
    return channels.largest if channels is not None and channels.axis == watched([node])[name] else None


def _integers(found: Range, largest: Array | None, inputs: Array) -> tuple[Array, Array]:
    """The smallest and the largest integer of each input, from the largest magnitude of its channel."""
    if largest is None or len(largest) <= inputs.max(initial=-1):
        return np.zeros(len(inputs)), np.full(len(inputs), _LEVELS)
    step = (found.high - found.low) / _LEVELS
    zero = round(-found.low / step)
    reach = np.round(_MARGIN * largest[inputs] / step)
    return np.clip(zero - reach, 0, _LEVELS), np.clip(zero + reach, 0, _LEVELS)
