"""The options of the static recipe do no harm to models that do not need them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeai.artifact import Artifact
from edgeai.exporting import resolve
from edgeai.modelfile import open_artifact
from edgeai.quantization import Int8Static, quantize
from edgeai.samples import Samples

OPTIONS: list[dict[str, Any]] = [
    {"smooth": 0.5},
    {"bias_correction": True},
    {"smooth": 0.5, "bias_correction": True, "observer": "mse"},
    {"observer": "percentile"},
    {"observer": "entropy"},
    {"observer": "mse"},
]


@pytest.mark.parametrize("name", ["cnn", "bert"])
def test_no_option_does_harm(
    name: str,
    trained: Callable[[str], Path],
    exported: Callable[[str], Path],
    distance: Callable[[Artifact, Artifact, Samples], float],
    tmp_path: Path,
) -> None:
    source = resolve(str(trained(name)))
    parts = {kind: Samples.load(source.samples[kind]) for kind in ("calibration", "scoring")}
    artifact, scoring = open_artifact(exported(name)), parts["scoring"].take(slice(0, 32))
    calibration = parts["calibration"].take(slice(0, 64))

    def error(**options: Any) -> float:
        recipe = Int8Static(cache=str(tmp_path / "cache"), **options)
        out = tmp_path / "q.onnx"
        return distance(artifact, quantize(artifact, recipe, samples=calibration, out=out, overwrite=True), scoring)

    plain = error()
    found = {str(options): error(**options) for options in OPTIONS}
    assert max(found.values()) < 1.3 * plain + 0.01, (plain, found)


def test_embeddings_are_stored_as_integers_unless_they_are_not_wanted(
    trained: Callable[[str], Path], exported: Callable[[str], Path], tmp_path: Path
) -> None:
    source = resolve(str(trained("bert")))
    artifact, samples = open_artifact(exported("bert")), Samples.load(source.samples["calibration"]).take(slice(0, 16))
    sizes, tables = {}, {}
    for embeddings in (True, False):
        out = tmp_path / f"{embeddings}.onnx"
        recipe = Int8Static(embeddings=embeddings)
        quantized = quantize(artifact, recipe, samples=samples, out=out)
        sizes[embeddings] = out.stat().st_size
        tables[embeddings] = quantized.lineage[-1].options["stored_only"]
    assert tables[False] == [] and len(tables[True]) >= 1
    assert sizes[True] < 0.75 * sizes[False]
