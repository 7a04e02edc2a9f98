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
from edgeai.tuning.raising import raise_opset

from .conftest import run
from .corpus import Graph, graphs

# Of an answer's norm, on top of ten times what one part in a hundred of noise in the input does to it.
ALLOWED = {"int4-weight": 0.7, "fp16": 0.02, "bf16": 0.1}
ALLOWED_INT8 = 0.3
# Of the graphs, how many a recipe must quantize: refusing everything would pass otherwise.
LEAST = 0.25


def test_every_recipe_quantizes_or_refuses_any_graph() -> None:
    outcomes: collections.Counter[str] = collections.Counter()
    seen = 0

    @settings(max_examples=60, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(graphs())
    def every_recipe(graph: Graph) -> None:
        nonlocal seen
        seen += 1
        with tempfile.TemporaryDirectory() as directory:
            outcomes.update(_quantized(graph, Path(directory)))

    every_recipe()
    assert seen >= 40
    assert all(outcomes[name] >= LEAST * seen for name in RECIPES), (seen, outcomes)


def _quantized(graph: Graph, directory: Path) -> list[str]:
    """The recipes that wrote a file, which is then valid and close; the others said why and left nothing."""
    source = directory / "float.onnx"
    model = onnx.ModelProto.FromString(graph.model.SerializeToString())  # saving with external data empties it
    onnx.save(model, source, save_as_external_data=graph.external, size_threshold=64)
    artifact = modelfile.open_artifact(source)
    samples = Samples.from_feeds(graph.calibration) if graph.fresh else None
    raised: dict[int, Artifact] = {}
    names = []
    for name, kind in RECIPES.items():
        recipe, out = kind(), directory / name / "out.onnx"
        out.parent.mkdir()
        try:
            if recipe.minimum_opset not in raised:
                there = directory / f"{recipe.minimum_opset}.onnx"
                raised[recipe.minimum_opset] = raise_opset(artifact, recipe, samples, out=there)
            quantize(raised[recipe.minimum_opset], recipe, samples=samples, out=out, quantized_input="pass")
        except EdgeAIError as error:
            assert "dequantized" not in graph.blocks, "that is passed through"
            assert error.message and "\n" not in str(error)
            assert not list(out.parent.iterdir()), "a refusal leaves nothing"
            continue
        allowed = 0.0 if "dequantized" in graph.blocks else ALLOWED.get(name, ALLOWED_INT8)
        _assert_close(artifact, out, graph, allowed)
        names.append(name)
    return names


def _assert_close(artifact: Artifact, out: Path, graph: Graph, allowed: float) -> None:
    written, feed = onnx.load(out), graph.fresh
    assert [value.name for value in written.graph.output] == [value.name for value in graph.model.graph.output]
    if all(opset.domain != "com.microsoft" for opset in written.opset_import):
        onnx.checker.check_model(written, full_check=True)
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
