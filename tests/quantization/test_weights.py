from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeai.errors import QuantizationError
from edgeai.quantization.weights import quantize_weight

_MATRICES = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.floats(-(2.0**100), 2.0**100, width=32),
)
_OPTIONS = st.fixed_dictionaries(
    {"dtype": st.sampled_from(["int8", "uint8"]), "per_channel": st.booleans(), "reduce_range": st.booleans()}
)


@given(_MATRICES, _OPTIONS)
def test_every_weight_comes_back_within_half_a_step(matrix: np.ndarray, options: dict[str, Any]) -> None:
    made = quantize_weight(matrix, name="W", **options)
    assert made.values.dtype == made.zero_point.dtype == options["dtype"]
    assert made.scale.dtype == np.float32
    assert made.scale.shape == made.zero_point.shape == (matrix.shape[1:] if options["per_channel"] else ())
    assert np.isfinite(made.scale).all()
    assert (made.scale > 0).all()
    scale = made.scale.astype(np.float64)
    back = scale * (made.values.astype(np.float64) - made.zero_point.astype(np.float64))
    # Half a step for the value, half for the zero point of an asymmetric range, and what float32 rounds the scale by.
    steps = 0.5 if options["dtype"] == "int8" else 1.0
    assert (np.abs(back - matrix) <= scale * (steps + 1e-3) + np.finfo(np.float32).tiny).all()
    assert (back[matrix == 0] == 0).all(), "zero stays zero"


@given(_MATRICES, _OPTIONS)
def test_integers_stay_in_their_range(matrix: np.ndarray, options: dict[str, Any]) -> None:
    made = quantize_weight(matrix, name="W", **options)
    bits = 7 if options["reduce_range"] else 8
    low, high = (0, 2**bits - 1) if options["dtype"] == "uint8" else (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1)
    assert low <= made.values.min()
    assert made.values.max() <= high


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_by_name(value: float) -> None:
    with pytest.raises(QuantizationError, match="weight head holds NaN or infinity"):
        quantize_weight(
            np.array([[1.0, value]], np.float32), dtype="int8", per_channel=True, reduce_range=False, name="head"
        )
