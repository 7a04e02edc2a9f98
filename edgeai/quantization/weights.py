"""Integer weights: one scale and one zero point for a tensor, or for each of its channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgeai.errors import QuantizationError
from edgeai.spec import Array

IntegerType = Literal["int8", "uint8"]


@dataclass(frozen=True)
class QuantizedWeight:
    """weight ~ scale * (values - zero_point). `values` (K, N); `scale` and `zero_point` () or (N,)."""

    values: Array
    scale: Array
    zero_point: Array


def quantize_weight(
    weight: Array, *, dtype: IntegerType, per_channel: bool, reduce_range: bool, name: str
) -> QuantizedWeight:
    """Round a float32 matrix (K, N) to integers; a channel is a column.

    int8 is symmetric (zero point 0), uint8 is not. `reduce_range` leaves one bit unused, so that sums of two products
    with uint8 activations fit 16 bits (x86 without int8 dot products). A channel of zeros gets the scale 1.
    Raises QuantizationError if the weight holds NaN or infinity.
    """
    if not np.isfinite(weight).all():
        raise QuantizationError(f"weight {name} holds NaN or infinity", hint="keep its node in float: exclude=(...)")
    axis = 0 if per_channel else None
    low = np.minimum(weight.min(axis), 0.0).astype(np.float64)
    high = np.maximum(weight.max(axis), 0.0).astype(np.float64)
    bits = 7 if reduce_range else 8
    if dtype == "int8":
        largest = 2 ** (bits - 1) - 1
        scale = np.maximum(-low, high) / largest
        smallest, zero_point = -largest, np.zeros_like(scale)
        scale = _usable(scale)
    else:
        smallest, largest = 0, 2**bits - 1
        scale = _usable((high - low) / largest)
        zero_point = np.clip(np.round(-low / scale), smallest, largest)
    values = np.clip(np.round(weight / scale) + zero_point, smallest, largest)
    return QuantizedWeight(values.astype(dtype), scale.astype(np.float32), zero_point.astype(dtype))


def _usable(scale: Array) -> Array:
    """Scales below the smallest normal float32 would round to 0 and divide by it."""
    usable: Array = np.where(scale < np.finfo(np.float32).tiny, 1.0, scale)
    return usable
