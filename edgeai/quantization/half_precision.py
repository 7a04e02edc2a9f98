"""What the recipes for float16 and bfloat16 share."""

from __future__ import annotations

import abc
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.errors import ModelFormatError, QuantizationError
from edgeai.quantization.half import Half, soften_masks, store_in_half
from edgeai.quantization.half_arithmetic import Converter
from edgeai.quantization.layers import share_ties
from edgeai.quantization.magnitudes import magnitudes
from edgeai.quantization.recipe import Applied, Setting, without


@dataclass(frozen=True)
class HalfPrecision(abc.ABC):
    """Inputs and outputs keep their dtypes.

    `weights_only` halves the file and computes in float32: the weights are converted back when the model is loaded.
    Without it the arithmetic is in half precision too, but for what left its range on the samples or on generated
    feeds, what sums too much for it, and what stands in If and Loop bodies. `exclude` names nodes that stay float32.
    """

    name: ClassVar[str]
    half: ClassVar[Half]
    minimum_opset: ClassVar[int] = 13  # Cast knows bfloat16
    needs_samples: ClassVar[bool] = False

    weights_only: bool = False
    exclude: tuple[str, ...] = ()

    def apply(self, model: ir.Model, setting: Setting) -> Applied:
        without([], self.exclude, model)
        share_ties(model)
        if self.weights_only:
            choices: dict[str, object] = {"stored": store_in_half(model, self.half)}
            if not choices["stored"]:
                raise QuantizationError(f"{setting.source}: has no float32 weight to store as {self.name}")
            return Applied(model, choices, shows="halves")
        softened = soften_masks(model, self.half)
        reached = magnitudes(model, setting)
        converter = Converter(model, self.half, reached, frozenset(self.exclude))
        nodes = converter.convert()
        if not nodes:
            reasons = ", ".join(f"{name} ({why})" for name, why in list(converter.kept.items())[:5]) or "nothing"
            raise QuantizationError(f"{setting.source}: no float32 product fits {self.name}; stays float32: {reasons}")
        choices = {"nodes": nodes, "casts": converter.casts, "masks": softened, "kept_float": converter.kept}
        _refuse_missing_kernels(model, setting, self.name)
        return Applied(model, choices, shows="halves")


def _refuse_missing_kernels(model: ir.Model, setting: Setting, name: str) -> None:
    """ONNX Runtime casts around missing float16 kernels by itself, but not around missing bfloat16 ones."""
    with tempfile.TemporaryDirectory(prefix="edgeai-") as directory:
        try:
            modelfile.save(model.clone(), Artifact(Path(directory) / "candidate.onnx"))
        except ModelFormatError as error:
            missing = re.search(r"implementation for (\w+)", error.message)
            if missing is None:
                raise
            raise QuantizationError(
                f"{setting.source}: ONNX Runtime's CPU provider has no {name} kernel for {missing[1]}; "
                "such a graph is for CUDA",
                hint="--weights-only (weights_only=True) computes in float32",
            ) from error
