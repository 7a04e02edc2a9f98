"""Codes, scales and zero points: exact in themselves, and read by ONNX Runtime's kernels as we read them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeai.errors import QuantizationError
from edgeai.quantization.blocks import Grid, pack, quantize_blocks, unpack
from edgeai.quantization.half_quadratic import half_quadratic
from edgeai.quantization.k_quant import k_quant
from edgeai.quantization.round_to_nearest import round_to_nearest

METHODS = {"rtn": round_to_nearest, "k-quant": k_quant, "hqq": half_quadratic}
GRIDS = st.builds(Grid, st.sampled_from([4, 8]), st.sampled_from([16, 32, 64, 128]), st.booleans())
methods = pytest.mark.parametrize("method", METHODS)


def heavy_tailed(rows: int, columns: int, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).standard_t(3, (rows, columns)) / 50).astype(np.float32)


@given(st.sampled_from([4, 8]), st.integers(1, 70), st.integers(1, 5), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_packing_is_undone_by_unpacking(bits: int, count: int, rows: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (rows, count)).astype(np.uint8)
    packed = pack(codes, bits)
    assert packed.shape == (rows, -(-count * bits // 8))
    np.testing.assert_array_equal(unpack(packed, bits, count), codes)


@methods
@given(GRIDS, st.integers(1, 40), st.integers(1, 300), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_blocks_keep_shape_and_stay_on_the_grid(method: str, grid: Grid, rows: int, columns: int, seed: int) -> None:
    weight = heavy_tailed(rows, columns, seed)
    blocks, error = quantize_blocks(weight, grid, METHODS[method], name="W")
    assert blocks.codes.shape == (rows, -(-columns // grid.block_size), grid.block_size)
    assert blocks.codes.max() <= grid.top
    assert blocks.zero_points.max() <= grid.top
    rounded = blocks.dequantized(columns)
    assert rounded.shape == weight.shape
    assert error == pytest.approx(np.linalg.norm(rounded - weight) / np.linalg.norm(weight), rel=1e-3)
    assert error < (0.3 if grid.bits == 4 else 0.03)
    padding = blocks.dequantized(blocks.codes[0].size)[:, columns:]
    np.testing.assert_array_equal(padding, 0)
    if grid.symmetric:
        assert set(blocks.zero_points.flat) == {grid.middle}


@given(GRIDS, st.integers(1, 20), st.integers(1, 200), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_rounding_to_nearest_is_half_a_step_away_at_most(grid: Grid, rows: int, columns: int, seed: int) -> None:
    weight = heavy_tailed(rows, columns, seed)
    blocks, _ = quantize_blocks(weight, grid, round_to_nearest, name="W")
    steps = np.repeat(np.abs(blocks.scales), grid.block_size, axis=1)[:, :columns]
    # The value farthest on the other side of zero may lie one step beyond the last code.
    reach = 1.001 if grid.symmetric else 0.501
    assert (np.abs(blocks.dequantized(columns) - weight) <= reach * steps + 1e-9).all()


@methods
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-30, -1e-42, 1e37])
def test_constant_blocks_are_exact_enough(method: str, symmetric: bool, value: float) -> None:
    weight = np.full((3, 64), value, np.float32)
    blocks, _ = quantize_blocks(weight, Grid(4, 32, symmetric), METHODS[method], name="W")
    np.testing.assert_allclose(blocks.dequantized(64), weight, rtol=1e-5, atol=1e-37)


@methods
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_refused_by_name(method: str, bad: float) -> None:
    weight = heavy_tailed(8, 64, 0)
    weight[5, 7] = bad
    with pytest.raises(QuantizationError, match=r"weight layer\.W holds NaN or infinity"):
        quantize_blocks(weight, Grid(4, 32, True), METHODS[method], name="layer.W")


@given(GRIDS, st.integers(1, 30), st.integers(2, 150), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_the_kernels_read_the_bytes_as_we_do(grid: Grid, rows: int, columns: int, seed: int) -> None:
    """MatMulNBits at both accuracy levels, and GatherBlockQuantized, on one and the same constant."""
    blocks, _ = quantize_blocks(heavy_tailed(rows, columns, seed), grid, round_to_nearest, name="W")
    rounded = blocks.dequantized(columns)
    zero = "" if grid.symmetric else ", Z"
    attributes = f"K = {columns}, N = {rows}, bits = {grid.bits}, block_size = {grid.block_size}"
    width = blocks.codes[0].size * grid.bits // 8
    model = onnx.parser.parse_model(f"""<ir_version: 9, opset_import: ["": 20, "com.microsoft": 1]>
        g (float[n, {columns}] x, int64[k] ids) => (float[n, {rows}] y, float[n, {rows}] y8, float[k, w] e) {{
            y = com.microsoft.MatMulNBits<{attributes}, accuracy_level = 0>(x, B, S{zero})
            y8 = com.microsoft.MatMulNBits<{attributes}, accuracy_level = 4>(x, B, S{zero})
            D = Reshape(B, shape)
            e = com.microsoft.GatherBlockQuantized<bits = {grid.bits}, block_size = {grid.block_size},
                gather_axis = 0, quantize_axis = 1>(D, ids, S{zero}) }}""")
    constants = {"B": pack(blocks.codes, grid.bits), "S": blocks.scales, "shape": np.array([-1, width])}
    if not grid.symmetric:
        constants["Z"] = pack(blocks.zero_points, grid.bits)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, key) for key, array in constants.items())
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(seed)
    x, ids = random.standard_normal((3, columns)).astype(np.float32), random.integers(0, rows, 5)
    y, y8, e = session.run(None, {"x": x, "ids": ids})
    wanted = x @ rounded.T
    size = np.linalg.norm(x) * np.linalg.norm(rounded) / max(1, np.sqrt(columns))
    assert np.abs(y - wanted).max() <= 1e-4 * size + 1e-6
    assert np.abs(y8 - wanted).max() <= 0.05 * size + 1e-6, "activations rounded to int8, block by block"
    np.testing.assert_array_equal(e[:, :columns], rounded[ids])
