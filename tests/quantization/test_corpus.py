"""Any file: of what is thrown at it, every recipe makes a valid, close model, or says in one sentence why not."""

from __future__ import annotations

import collections
import tempfile
from pathlib import Path

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.errors import EdgeAIError
from edgeai.quantization import RECIPES, quantize
from edgeai.samples import Samples

from .conftest import run
from .corpus import Feed, Graph, graphs

# Of an answer's norm, on top of ten times what one part in a hundred of noise in the input does to it.
ALLOWED = {"int4-weight": 0.7, "fp16": 0.02, "bf16": 0.1}
ALLOWED_INT8 = 0.3
# Of the graphs, how many a recipe must quantize: refusing everything would pass otherwise. Half have too old an opset.
LEAST = 0.12


def test_every_recipe_quantizes_or_refuses_any_graph() -> None:
    outcomes: collections.Counter[str] = collections.Counter()
    seen = 0

    @settings(max_examples=120, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(graphs())
    def every_recipe(graph: Graph) -> None:
        nonlocal seen
        seen += 1
        for name in RECIPES:
            with tempfile.TemporaryDirectory() as directory:
                outcomes[name] += _quantized(graph, name, Path(directory))

    every_recipe()
    assert seen >= 40
    assert all(outcomes[name] >= LEAST * seen for name in RECIPES), (seen, outcomes)


def _quantized(graph: Graph, name: str, directory: Path) -> bool:
    """Whether the recipe wrote a file, which is then valid and close; else it said why and left nothing."""
    source, out = directory / "float.onnx", directory / "q" / "out.onnx"
    out.parent.mkdir()
    model = onnx.ModelProto.FromString(graph.model.SerializeToString())  # saving with external data empties it
    onnx.save(model, source, save_as_external_data=graph.external, size_threshold=64)
    artifact = modelfile.open_artifact(source)
    samples = Samples.from_feeds(graph.calibration) if graph.fresh else None
    try:
        quantize(artifact, RECIPES[name](), samples=samples, out=out)
    except EdgeAIError as error:
        assert error.message and "\n" not in str(error)
        assert not list(out.parent.iterdir()), "a refusal leaves nothing"
        return False
    written = onnx.load(out)
    assert [value.name for value in written.graph.output] == [value.name for value in graph.model.graph.output]
    if all(opset.domain != "com.microsoft" for opset in written.opset_import):
        onnx.checker.check_model(written, full_check=True)
    _assert_close(artifact, out, graph.fresh, ALLOWED.get(name, ALLOWED_INT8))
    return True


def _assert_close(artifact: Artifact, out: Path, feed: Feed, allowed: float) -> None:
    noisy = {
        key: np.asarray(array * (1 + 0.01 * np.random.default_rng(0).standard_normal(array.shape)), array.dtype)
        if array.dtype == np.float32
        else array
        for key, array in feed.items()
    }
    answers = run(artifact.path, feed), run(out, feed), run(artifact.path, noisy)
    for want, got, moved in zip(*answers, strict=True):
        assert (want.shape, want.dtype) == (got.shape, got.dtype)
        assert np.isfinite(got).all()
        size = max(float(np.linalg.norm(want)), 1e-6)
        assert np.linalg.norm(got - want) / size <= allowed + 10 * np.linalg.norm(moved - want) / size
