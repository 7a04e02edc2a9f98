"""Integer weights and integer activations with fixed ranges (QDQ), from calibration samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np
import onnx_ir as ir

from edgeai.errors import QuantizationError, UsageError
from edgeai.quantization.bias_correction import correct_biases
from edgeai.quantization.calibration import Calibration
from edgeai.quantization.embeddings import quantize_embeddings
from edgeai.quantization.histogram import MARK
from edgeai.quantization.integer_nodes import (
    WEIGHTED,
    captured_path,
    is_float,
    origin,
    possible,
    score_path,
    tensors,
    watched,
)
from edgeai.quantization.layers import find_matrices
from edgeai.quantization.observers import observe
from edgeai.quantization.own_constants import own_constants, own_transposed
from edgeai.quantization.preparation import refuse_weightless, weighted_nodes
from edgeai.quantization.qdq import Types, free_names, insert_qdq
from edgeai.quantization.ranges import Observer, Range, range_of
from edgeai.quantization.recipe import Applied, Setting, without
from edgeai.quantization.saturation import saturation
from edgeai.quantization.smooth import Smoothed, smooth
from edgeai.quantization.stored_weights import storable, store_weights
from edgeai.quantization.tidying import tidy
from edgeai.quantization.weights import IntegerType

Scope = Literal["all", "products"]

# No integer kernel on CPUs: integers between floats would cost their rounding and two conversions, and gain nothing.
_STORED_OPS = ("ConvTranspose",)


@dataclass(frozen=True)
class Int8Static:
    """Activation and weight types; uint8 x int8 is the fast pair on x86.

    `observer` turns what calibration saw into ranges; `percentile` is its option. `symmetric_activations` puts zero
    in the middle of the range. `scope` "products": only what MatMul, Gemm and Conv multiply becomes integers, nothing
    in between. `smooth`: SmoothQuant's alpha, or None for none. `bias_correction` takes the mean error that rounded
    weights cause out of the biases. `reduce_range=None` leaves one bit of the weights unused where the target's CPU
    would clamp sums that calibration shows to be possible (`saturation`). `exclude` names nodes that stay float.
    `float_biases` is for TensorRT (`int8_for`); CPUs have no integer kernel for products with one.
    ConvTranspose multiplies floats, with weights that are stored as integers. `embeddings`: look-up tables too, as
    int8-dynamic does. `cache`: a directory that keeps calibrations, so that the next recipe on the same model and
    samples need not observe again, and an interrupted one continues.

    Raises UsageError for a pair of types that has no kernels and for options out of their range.
    """

    name: ClassVar[str] = "int8-static"
    minimum_opset: ClassVar[int] = 13  # DequantizeLinear by channel
    needs_samples: ClassVar[bool] = True

    activation_type: IntegerType = "uint8"
    weight_type: IntegerType = "int8"
    per_channel: bool = True
    symmetric_activations: bool = False
    scope: Scope = "all"
    observer: Observer = "minmax"
    percentile: float = 99.99
    smooth: float | None = field(default=None, metadata={"unset": "off"})
    bias_correction: bool = False
    reduce_range: bool | None = None
    float_biases: bool = False
    embeddings: bool = True
    exclude: tuple[str, ...] = ()
    cache: str | None = field(default=None, metadata={"unset": "none"})

    def __post_init__(self) -> None:
        if (self.activation_type, self.weight_type) == ("int8", "uint8"):
            raise UsageError(
                "int8 activations with uint8 weights have no kernels", hint="make the weights int8 as well"
            )
        if self.observer not in get_args(Observer):
            raise UsageError(f"observer {self.observer!r} is unknown", hint=", ".join(get_args(Observer)))
        if self.scope not in get_args(Scope):
            raise UsageError(f"scope {self.scope!r} is unknown", hint=", ".join(get_args(Scope)))
        if not 50.0 < self.percentile <= 100.0:
            raise UsageError(f"percentile {self.percentile} is not in 50..100", hint="99.99 cuts one value in 10,000")
        if self.smooth is not None and not 0.0 <= self.smooth <= 1.0:
            raise UsageError(f"smooth {self.smooth} is not in 0..1", hint="0.5 is what its authors start with")

    def apply(self, model: ir.Model, setting: Setting) -> Applied:
        own_transposed(model)
        candidates = weighted_nodes(model)
        refuse_weightless(model, candidates, setting.source, "MatMul, Gemm or Conv of the main graph")
        weighted = without(candidates, self.exclude, model)
        _refuse_nonfinite(weighted)
        own_constants(model.graph, weighted)
        free_names(model.graph)
        kept = score_path(model.graph) | captured_path(model.graph) | set(self.exclude)
        smoothed = Smoothed(model)
        if self.smooth is not None:
            seen = self._observe(model, self._nodes(model, kept), setting)
            smoothed = smooth(model, weighted, seen, self.smooth, setting)
        model, kept = smoothed.model, kept | smoothed.float_names
        nodes = self._nodes(model, kept)
        calibration = self._observe(model, nodes, setting)
        ranges, marks = self._ranges(nodes, calibration)
        nodes = [node for node in nodes if is_float(node, ranges)]
        _refuse_none(nodes, marks)
        clamped = saturation(
            nodes if self.weight_type == "int8" else (), ranges, calibration,
            per_channel=self.per_channel, symmetric=self.symmetric_activations,
        )  # fmt: skip
        reduce_range = clamped.needs_reduced_range(setting.target) if self.reduce_range is None else self.reduce_range
        types = Types(
            self.activation_type, self.weight_type, self.per_channel, self.symmetric_activations, reduce_range,
            self.float_biases, self.scope == "all",
        )  # fmt: skip
        quantized = insert_qdq(model, nodes, ranges, types, exact=smoothed.float_names)
        corrected = 0
        if self.bias_correction:
            corrected = correct_biases(model, nodes, quantized, calibration)
            quantized = insert_qdq(model, nodes, ranges, types, exact=smoothed.float_names)
        others = [node for node in storable(quantized, op_types=_STORED_OPS) if node.name not in self.exclude]
        stored = [*store_weights(others, setting.store), *self._store_embeddings(quantized, setting)]
        choices = {
            "reduce_range": reduce_range,
            "saturation": dataclasses.asdict(clamped),
            "samples": len(setting.samples or ()),
            "kept_float": sorted(kept),
            "marks": marks,
            "smoothed": {name: getattr(smoothed, name) for name in ("folded", "multiplied", "left")},
            "corrected_biases": corrected,
            "stored_only": sorted(stored),
            "cache": None,  # where it lies says nothing of the model
        }
        for_others = self.float_biases or self.scope == "products"  # what the CPU provider makes of it says little
        return Applied(quantized, choices, shows="stored" if for_others else "integers")

    def _nodes(self, model: ir.Model, kept: Collection[str]) -> list[ir.Node]:
        weighted = [node for node in weighted_nodes(model) if node.name not in kept]
        nodes = [node for node in possible(model.graph, weighted) if node.name not in kept]
        return nodes if self.scope == "all" else [node for node in nodes if node in weighted]

    def _store_embeddings(self, model: ir.Model, setting: Setting) -> list[str]:
        matrices = find_matrices(model) if self.embeddings else []
        for matrix in matrices:
            matrix.lookups = [node for node in matrix.lookups if node.name not in self.exclude]
        names = quantize_embeddings(matrices, model.graph, setting.store)
        tidy(model)
        return names

    def _observe(self, model: ir.Model, nodes: list[ir.Node], setting: Setting) -> Calibration:
        """One calibration for every observer and option, so that recipes can share it."""
        assert setting.samples is not None  # the verb saw to it
        cache = Path(self.cache) if self.cache is not None else None
        return observe(
            model, watched(nodes), setting.signature, setting.samples, cache=cache, progress=setting.progress
        )

    def _ranges(self, nodes: list[ir.Node], calibration: Calibration) -> tuple[dict[str, Range], dict[str, int]]:
        """Of every tensor that can be integer, its range; of those with marks, how many."""
        ranges, marks = {}, {}
        for value in tensors(nodes):
            seen = calibration.tensors.get(name := str(origin(value).name))
            if seen is not None and seen.histogram.marks:
                marks[name] = seen.histogram.marks
            elif seen is not None:
                ranges[str(value.name)] = range_of(seen, self.observer, percentile=self.percentile)
        return ranges, marks


def _refuse_nonfinite(weighted: list[ir.Node]) -> None:
    for node in weighted:
        value = node.inputs[1]
        if value is not None and value.const_value is not None and not np.isfinite(value.const_value.numpy()).all():
            raise QuantizationError(
                f"weight {value.name} holds NaN or infinity",
                hint=f"keep its node in float: exclude=({node.name!r},)",
            )


def _refuse_none(nodes: list[ir.Node], marks: Mapping[str, int]) -> None:
    if marks and not any(node.op_type in WEIGHTED for node in nodes):
        found = ", ".join(f"{name} ({count})" for name, count in list(marks.items())[:5])
        raise QuantizationError(
            f"calibration: nothing is left to quantize; infinities or values beyond {MARK:.0e} stand in {found}",
            hint="the samples or the model are broken in floating point already",
        )
