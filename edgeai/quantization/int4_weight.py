"""Weights of four bits: an eighth of the file, and at batch 1, where reading weights is the work, the fastest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgeai.quantization.weight_only import WeightOnly


@dataclass(frozen=True)
class Int4Weight(WeightOnly):
    """Blocks of 32 columns take 5 bits a weight with their scale, of 128 columns 4.25."""

    name: ClassVar[str] = "int4-weight"
    bits: ClassVar[int] = 4
