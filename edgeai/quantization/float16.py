"""float16: half of the file. Faster on GPUs and NPUs; ONNX Runtime's CPU kernels compute in float32 all the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgeai.quantization.half import FLOAT16, Half
from edgeai.quantization.half_precision import HalfPrecision


@dataclass(frozen=True)
class Float16(HalfPrecision):
    """Eleven bits of mantissa, and nothing beyond 65504."""

    name: ClassVar[str] = "fp16"
    half: ClassVar[Half] = FLOAT16
