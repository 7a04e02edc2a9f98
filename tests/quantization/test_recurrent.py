"""Recurrent layers: LSTM has an integer operator in ONNX Runtime, GRU and RNN have none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.errors import QuantizationError
from edgeai.quantization import Int4Weight, Int8Dynamic, Int8Weight, quantize
from edgeai.samples import Samples

_RANDOM = np.random.default_rng(2)
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def _floats(*shape: int) -> np.ndarray:
    return (_RANDOM.standard_normal(shape) / 4).astype(np.float32)


def _weights(op: str, directions: int = 1, inputs: int = 16, hidden: int = 16) -> dict[str, np.ndarray]:
    gates = _GATES[op] * hidden
    return {"W": _floats(directions, gates, inputs), "R": _floats(directions, gates, hidden)}


_X = Samples.from_feeds([{"x": _floats(length, 3, 16)} for length in (1, 7)])
_LSTM = "g (float[s, n, 16] x) => (float[s, 1, n, 16] y) { y = LSTM<hidden_size = 16>(x, W, R) }"


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("weight_type", ["int8", "uint8"])
def test_an_lstm_multiplies_integers(
    direction: str, weight_type: Any, write: Callable[..., Artifact], operators: Any, distance: Any, tmp_path: Path
) -> None:
    directions = 2 if direction == "bidirectional" else 1
    artifact = write(
        f"""g (float[s, n, 16] x) => (float[s, {directions}, n, 16] y, float[{directions}, n, 16] h) {{
            y, h = LSTM<hidden_size = 16, direction = "{direction}">(x, W, R, B) }}""",
        **_weights("LSTM", directions),
        B=_floats(directions, 128),
    )
    done = quantize(artifact, Int8Dynamic(weight_type=weight_type), out=tmp_path / "q.onnx")
    assert operators(done) == {"DynamicQuantizeLSTM": 1}
    assert done.path.stat().st_size < artifact.path.stat().st_size
    assert distance(artifact, done, _X) < 0.04
    coverage = done.lineage[-1].options["coverage"]
    assert (coverage["integer_nodes"], coverage["integer_weight_share"]) == (1, 1.0)


def test_every_optional_input_of_an_lstm_stays_where_it_was(
    write: Callable[..., Artifact], distance: Any, tmp_path: Path
) -> None:
    artifact = write(
        """g (float[s, n, 16] x) => (float[1, n, 16] c) {
            a, b, c = LSTM<hidden_size = 16, clip = 1.5, input_forget = 0>(x, W, R, , , h0, c0, P) }""",
        **_weights("LSTM"),
        h0=_floats(1, 3, 16),
        c0=_floats(1, 3, 16),
        P=_floats(1, 48),
    )
    done = quantize(artifact, Int8Dynamic(), samples=_X, out=tmp_path / "q.onnx")
    assert distance(artifact, done, _X) < 0.04


def test_outputs_that_are_left_out_stay_out(distance: Any, tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("LSTM", ["x", "W", "R"], ["", "", "c"], hidden_size=16)]
    x, c = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", ["s", "n", 16]), ("c", [1, "n", 16]))
    )
    weights = [onnx.numpy_helper.from_array(array, name) for name, array in _weights("LSTM").items()]
    graph = onnx.helper.make_graph(nodes, "g", [x], [c], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=7)
    onnx.save(model, tmp_path / "float.onnx")
    artifact = modelfile.open_artifact(tmp_path / "float.onnx")
    done = quantize(artifact, Int8Dynamic(), out=tmp_path / "q.onnx")
    assert list(onnx.load(done.path).graph.node[0].output) == ["", "", "c"]
    assert distance(artifact, done, _X) < 0.04


def test_an_lstm_whose_weights_are_computed_is_refused_by_name(write: Callable[..., Artifact], tmp_path: Path) -> None:
    body = "{ v = Mul(W, s) y = LSTM<hidden_size = 16>(x, v, R) }"
    artifact = write(f"g (float[s, n, 16] x, float s) => (float[s, 1, n, 16] y) {body}", **_weights("LSTM"))
    with pytest.raises(QuantizationError, match=r"no MatMul, Gemm or LSTM .*; it has LSTM with the float weight R"):
        quantize(artifact, Int8Dynamic(), out=tmp_path / "q.onnx")


def test_an_excluded_lstm_stays_float_and_so_does_a_gru_and_both_are_named(
    write: Callable[..., Artifact], operators: Any, tmp_path: Path
) -> None:
    gru = _weights("GRU")
    artifact = write(
        """g (float[s, n, 16] x) => (float[s, 1, n, 16] y, float[s, 1, n, 16] z, float[s, n, 8] m) {
            y = LSTM<hidden_size = 16>(x, W, R) z = GRU<hidden_size = 16>(x, Wg, Rg) m = MatMul(x, V) }""",
        **_weights("LSTM"),
        Wg=gru["W"],
        Rg=gru["R"],
        V=_floats(16, 8),
    )
    done = quantize(artifact, Int8Dynamic(exclude=("LSTM_0",)), out=tmp_path / "q.onnx")
    assert (operators(done)["LSTM"], operators(done)["GRU"], operators(done)["MatMulInteger"]) == (1, 1, 1)
    options = done.lineage[-1].options
    assert set(options["coverage"]["float_names"]) == {"LSTM_0", "GRU_1"}
    assert options["left_float"] == {"excluded": ["LSTM_0"], "ONNX Runtime has no integer kernel for it": ["GRU_1"]}
    assert options["stored_only"] == ["Rg", "Wg"], "what the GRU multiplies with is stored as integers at least"
    kept = quantize(artifact, Int8Dynamic(exclude=("GRU_1",)), out=tmp_path / "kept.onnx")
    assert kept.lineage[-1].options["stored_only"] == []


@pytest.mark.parametrize("op", ["GRU", "RNN"])
def test_beside_a_product_the_weights_of_a_gru_are_stored_and_answer_as_before(
    op: str, write: Callable[..., Artifact], distance: Any, tmp_path: Path
) -> None:
    artifact = write(
        f"""g (float[s, n, 16] x) => (float[s, 1, n, 16] y, float[s, n, 8] m) {{
            y = {op}<hidden_size = 16>(x, W, R) m = MatMul(x, V) }}""",
        **_weights(op),
        V=_floats(16, 8),
    )
    done = quantize(artifact, Int8Dynamic(), out=tmp_path / "q.onnx")
    assert done.lineage[-1].options["coverage"]["stored_integer_share"] == 1.0
    assert distance(artifact, done, _X) < 0.03


@pytest.mark.parametrize("op", _GATES)
@pytest.mark.parametrize("recipe", [Int8Weight(), Int4Weight()])
def test_recurrent_weights_are_stored_as_integers_and_named(
    op: str, recipe: Any, write: Callable[..., Artifact], distance: Any, tmp_path: Path
) -> None:
    artifact = write(_LSTM.replace("LSTM", op), **_weights(op))
    done = quantize(artifact, recipe, out=tmp_path / "q.onnx")
    constants = modelfile.load(done.path).graph.initializers
    assert {name: value.const_value.numpy().dtype for name, value in constants.items()} == {
        "W_int8": np.int8, "W_scales": np.float32, "R_int8": np.int8, "R_scales": np.float32
    }  # fmt: skip
    options = done.lineage[-1].options
    assert options["stored_only"] == ["R", "W"] and options["coverage"]["float_names"] == (f"{op}_0",)
    assert (options["coverage"]["stored_integer_share"], options["coverage"]["integer_weight_share"]) == (1.0, 0.0)
    assert all(error < 0.01 for error in options["weight_errors"].values())
    assert distance(artifact, done, _X) < 0.02


def test_a_recurrent_weight_that_is_not_finite_is_named(write: Callable[..., Artifact], tmp_path: Path) -> None:
    weights = _weights("LSTM")
    weights["R"][0, 3, 3] = np.nan
    artifact = write(_LSTM, **weights)
    for recipe in (Int8Dynamic(), Int8Weight()):
        with pytest.raises(QuantizationError, match="weight R holds NaN or infinity"):
            quantize(artifact, recipe, out=tmp_path / "q.onnx")
