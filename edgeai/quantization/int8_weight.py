"""Weights of eight bits: a quarter of the file at nearly no loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgeai.quantization.weight_only import Method, WeightOnly


@dataclass(frozen=True)
class Int8Weight(WeightOnly):
    """Rounding to nearest leaves so little error that a search has nothing to win."""

    name: ClassVar[str] = "int8-weight"
    bits: ClassVar[int] = 8

    block_size: int = 128
    method: Method = "rtn"
