from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import edgeai
from edgeai.errors import UsageError
from edgeai.runtime.testing import FakeEngine
from edgeai.spec import Signature, TensorSpec

Paths = Callable[[str], Path]
SIGNATURE = Signature((TensorSpec("x", "float32", ("batch", 3)),), (TensorSpec("y", "float32", ("batch", 3)),))


def fake(factor: float) -> FakeEngine:
    return FakeEngine(SIGNATURE, lambda feed: {"y": feed["x"] * np.float32(factor)})


def test_engines_that_agree_and_engines_that_do_not() -> None:
    assert edgeai.verify(fake(2), fake(2)).verdict == "verified"
    agreement = edgeai.verify(fake(2), fake(2.1))
    assert agreement.verdict == "failed"
    assert "y[" in agreement.findings[0].text


def test_a_module_and_its_file(tmp_path: Path) -> None:
    module = nn.Linear(3, 2)
    module.train()
    artifact = edgeai.export(module, {"input": torch.randn(2, 3)}, out=tmp_path / "m.onnx")
    assert edgeai.verify(module, artifact).verdict == "verified"
    assert module.training, "the module's own mode comes back"
    with torch.no_grad():
        module.weight.add_(1)
    assert edgeai.verify(module, artifact.path).verdict == "failed"


def test_a_trained_directory_a_model_and_a_bundle(trained: Paths, exported: Paths, built: Paths) -> None:
    assert edgeai.verify(str(trained("mlp")), exported("mlp")).verdict == "verified"
    assert edgeai.verify(exported("mlp"), built("mlp"), lossy=True).verdict in ("verified", "degraded")


def test_a_lossy_candidate_is_judged_by_the_metric_where_there_are_labels(trained: Paths, exported: Paths) -> None:
    samples = edgeai.Samples.load(trained("mlp") / "scoring.npz")
    agreement = edgeai.verify(exported("mlp"), exported("mlp"), samples, lossy=True, metric="accuracy")
    assert agreement.metric is not None
    assert agreement.metric.drop == 0


def test_what_is_asked_wrongly() -> None:
    with pytest.raises(UsageError, match="no metric 'bleu'"):
        edgeai.verify(fake(1), fake(1), metric="bleu")
    with pytest.raises(UsageError, match="a module cannot be the candidate"):
        edgeai.verify(fake(1), nn.Linear(1, 1))  # type: ignore[arg-type]
