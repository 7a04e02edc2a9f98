"""A model that is too large to run twice: the same bytes as without streaming, and an honest lineage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.errors import QuantizationError
from edgeai.external import external_files
from edgeai.quantization import Int4Weight, Int8Weight, quantize
from edgeai.samples import Samples
from edgeai.storage import sha256

_RANDOM = np.random.default_rng(4)


def _floats(*shape: int) -> np.ndarray:
    return _RANDOM.standard_normal(shape).astype(np.float32)


@pytest.fixture
def external(write: Any, tmp_path: Path) -> Any:
    """external(body, W=array, ...) -> artifact whose weights lie in a file of their own."""

    def external(body: str, **weights: np.ndarray) -> Artifact:
        artifact = write(body, **weights)
        directory = tmp_path / "external"
        directory.mkdir(exist_ok=True)
        model = onnx.load(artifact.path)
        onnx.save(model, directory / "f.onnx", save_as_external_data=True, location="f.data", size_threshold=16)
        return modelfile.open_artifact(directory / "f.onnx")

    return external


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeai.quantization.quantizing.STREAMED_ABOVE_BYTES", 0)


_BODY = """g (int64[n] ids) => (float[n, 24] y) {
    e = Gather(E, ids) a = Add(e, bias) h = MatMul(a, W) y = Gemm<transB = 1>(h, E) }"""


def _weights() -> dict[str, np.ndarray]:
    return {"E": _floats(24, 320), "W": _floats(320, 320), "bias": _floats(320)}


def test_weights_without_kernels_are_streamed_too(external: Any, streamed: None, distance: Any, tmp_path: Path) -> None:
    artifact = external(
        """g (float[s, n, 32] x) => (float[s, 1, n, 8] y) {
            h = LSTM<hidden_size = 16>(x, L, R) y = MatMul(h, W) }""",
        L=_floats(1, 64, 32),
        R=_floats(1, 64, 16),
        W=_floats(16, 8),
    )
    done = quantize(artifact, Int8Weight(), out=tmp_path / "q.onnx")
    tensors = {name: value.const_value for name, value in modelfile.load(done.path).graph.initializers.items()}
    assert isinstance(tensors["L_int8"], ir.ExternalTensor) and tensors["L_int8"].dtype is ir.DataType.INT8
    assert done.lineage[-1].options["stored_only"] == ["L", "R"]
    assert done.lineage[-1].options["coverage"]["stored_integer_share"] == 1.0
    assert distance(artifact, done, Samples.from_feeds([{"x": _floats(5, 2, 32)}])) < 0.05


@pytest.mark.parametrize("recipe", [Int4Weight(), Int4Weight(method="rtn", symmetric=False), Int8Weight(method="hqq")])
def test_the_weights_are_those_of_a_small_model(
    recipe: Any, external: Any, distance: Any, answers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = external(_BODY, **_weights())
    whole = quantize(artifact, recipe, out=tmp_path / "whole.onnx")
    monkeypatch.setattr("edgeai.quantization.quantizing.STREAMED_ABOVE_BYTES", 0)
    done = quantize(artifact, recipe, out=tmp_path / "q.onnx")
    left, right = (modelfile.load(each.path).graph.initializers for each in (whole, done))
    assert set(left) == set(right)
    for name, value in left.items():
        np.testing.assert_array_equal(value.const_value.numpy(), right[name].const_value.numpy())
    feed = {"ids": np.arange(24)}
    np.testing.assert_array_equal(answers(whole.path, feed)[0], answers(done.path, feed)[0])
    options = done.lineage[-1].options
    assert options["verdict"] == "unverified"
    assert "the float model was not run" in options["proof"]
    assert set(options["weight_errors"]) == {"E", "W"}
    assert "verdict" not in whole.lineage[-1].options
    assert modelfile.open_artifact(done.path).lineage == modelfile.open_artifact(done.path).lineage
    (data,) = external_files(done.path)
    assert data == f"q-{sha256(tmp_path / data)[:16]}.data"
    assert done.path.stat().st_size < 10_000, "no weight in the graph"


def test_it_can_be_replaced_and_nothing_is_left_when_it_fails(external: Any, tmp_path: Path, streamed: None) -> None:
    artifact = external(_BODY, **_weights())
    out = tmp_path / "out" / "q.onnx"
    quantize(artifact, Int4Weight(), out=out)
    quantize(artifact, Int4Weight(128), out=out, overwrite=True)
    assert modelfile.open_artifact(out).lineage[-1].options["block_size"] == 128
    before = sorted(path.name for path in out.parent.iterdir())
    broken = external(_BODY, **(_weights() | {"W": np.full((320, 320), np.nan, np.float32)}))
    with pytest.raises(QuantizationError, match="weight W holds NaN or infinity"):
        quantize(broken, Int4Weight(), out=out, overwrite=True)
    assert sorted(path.name for path in out.parent.iterdir()) == before


def test_an_answer_that_is_not_finite_is_refused(external: Any, tmp_path: Path, streamed: None) -> None:
    body = "g (float[n, 64] x) => (float[n, 64] y) { h = MatMul(x, W) y = Div(h, zero) }"
    artifact = external(body, W=_floats(64, 64), zero=np.zeros(64, np.float32))
    with pytest.raises(QuantizationError, match="quantized, y is NaN or infinite"):
        quantize(artifact, Int4Weight(), out=tmp_path / "q.onnx")
    assert not (tmp_path / "q.onnx").exists()


def test_a_method_that_runs_the_model_is_not_streamed(external: Any, tmp_path: Path, streamed: None) -> None:
    from edgeai.samples import Samples

    artifact = external(_BODY, **_weights())
    samples = Samples.from_rows({"ids": np.arange(24)})
    done = quantize(artifact, Int4Weight(method="gptq"), samples=samples, out=tmp_path / "q.onnx")
    assert "verdict" not in done.lineage[-1].options
