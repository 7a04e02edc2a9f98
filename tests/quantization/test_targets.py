"""Each provider gets the integers that it has kernels for, or the reason why there are none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeai.artifact import Artifact
from edgeai.errors import QuantizationError, UsageError
from edgeai.linting import lint
from edgeai.quantization import int8_for, quantize
from edgeai.samples import Samples

_BODY = """g (float[n, 4, 8, 8] x) => (float[n, 5] y) {
    h = Conv<pads = [1, 1, 1, 1]>(x, K, k) r = Relu(h) p = GlobalAveragePool(r) f = Flatten(p)
    g1 = Gemm(f, G, b) y = MatMul(g1, M) }"""
_RANDOM = np.random.default_rng(2)


@pytest.fixture
def model(write: Callable[..., Artifact]) -> Artifact:
    shapes = {"K": (8, 4, 3, 3), "k": (8,), "G": (8, 8), "b": (8,), "M": (8, 5)}
    return write(_BODY, **{name: _RANDOM.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()})


_SAMPLES = Samples.from_rows({"x": _RANDOM.standard_normal((8, 4, 8, 8)).astype(np.float32)})


@pytest.mark.parametrize("provider", ["tensorrt", "openvino", "cpu"])
def test_what_is_made_for_a_provider_runs_as_integers_there_by_its_rules(
    model: Artifact, provider: str, tmp_path: Path, answers: Callable[..., list[np.ndarray]]
) -> None:
    made = quantize(model, int8_for(provider), samples=_SAMPLES, out=tmp_path / "q.onnx")
    assert {(row.op_type, row.runs) for row in lint(made.path, target=provider).rows} >= {
        (op_type, "integer") for op_type in ("Conv", "Gemm", "MatMul") if provider != "cpu"
    }
    assert all(row.runs == "integer" for row in lint(made.path, target=provider).rows)
    feed = next(iter(_SAMPLES.feeds(8)))
    wanted, found = (answers(one.path, feed, x64quantprecision="1")[0] for one in (model, made))  # this CPU may clamp
    assert np.linalg.norm(found - wanted) < 0.1 * np.linalg.norm(wanted)


def test_what_is_made_for_the_cpu_is_not_what_tensorrt_takes(model: Artifact, tmp_path: Path) -> None:
    made = quantize(model, int8_for("cpu"), samples=_SAMPLES, out=tmp_path / "q.onnx")
    assert {row.runs for row in lint(made.path, target="tensorrt").rows} == {"refused"}


def test_a_provider_without_int8_products_is_refused_with_the_reason() -> None:
    with pytest.raises(QuantizationError, match=r"int8 for cuda: .*no int8 products.* \(use fp16 or bf16\)"):
        int8_for("cuda")
    with pytest.raises(UsageError, match="no int8 recipe for provider 'toaster'"):
        int8_for("toaster")
