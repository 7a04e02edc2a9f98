"""bfloat16: float32's range in half of the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgeai.quantization.half import BFLOAT16, Half
from edgeai.quantization.half_precision import HalfPrecision


@dataclass(frozen=True)
class BFloat16(HalfPrecision):
    """Eight bits of mantissa. ONNX Runtime's CPU provider has next to no bfloat16 kernels, so arithmetic is opt-in."""

    name: ClassVar[str] = "bf16"
    half: ClassVar[Half] = BFLOAT16

    weights_only: bool = True
