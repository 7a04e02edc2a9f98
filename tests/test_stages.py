"""Every family through every stage: a new family, or a new recipe, is tested by being there."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import edgeai
from edgeai.building import TORCH
from edgeai.caching import with_empty_cache
from edgeai.exporting import resolve
from edgeai.metrics import METRICS
from edgeai.modelfile import open_artifact
from edgeai.quantization import RECIPES
from edgeai.tuning import BASELINE
from model_defs import FAMILIES

Paths = Callable[[str], Path]
families = pytest.mark.parametrize("name", FAMILIES)


def scoring(trained: Path, split: str = "scoring") -> edgeai.Samples:
    source = resolve(str(trained))
    samples = edgeai.Samples.load(source.samples[split])
    return with_empty_cache(samples, source.signature)


@families
def test_the_exported_file_agrees_with_torch_over_its_declared_shapes(
    name: str, trained: Paths, exported: Paths
) -> None:
    samples = scoring(trained(name)).take(slice(0, 8))
    agreement = edgeai.verify(str(trained(name)), exported(name), samples, metric=FAMILIES[name].metric)
    assert agreement.verdict == "verified", agreement.summary
    assert agreement.metric is not None
    assert agreement.metric.candidate == pytest.approx(agreement.metric.reference, rel=1e-4)
    low, high = agreement.proven()["batch"]
    assert low == 1
    assert high >= 17


@families
def test_the_rewritten_file_agrees_with_the_exported_one(name: str, exported: Paths, tmp_path: Path) -> None:
    artifact = edgeai.optimize(open_artifact(exported(name)), out=tmp_path / "o.onnx")
    assert [step.tool for step in artifact.lineage] == ["export", "optimize"]
    assert edgeai.verify(exported(name), artifact).verdict == "verified"


@families
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_gives_a_valid_file_with_other_weights_in_it(
    name: str, recipe: str, trained: Paths, exported: Paths, tmp_path: Path
) -> None:
    calibration = scoring(trained(name), "calibration").take(slice(0, 16))
    source = open_artifact(exported(name))
    artifact = edgeai.quantize(source, RECIPES[recipe](), samples=calibration, out=tmp_path / "q.onnx")
    coverage = artifact.lineage[-1].options["coverage"]
    if recipe in ("fp16", "bf16"):
        assert 0.9 < coverage["half_weight_share"] <= 1
    else:
        assert coverage["integer_nodes"] > 0
        assert 0 < coverage["integer_weight_share"] <= 1
    agreement = edgeai.verify(exported(name), artifact, scoring(trained(name)).take(slice(0, 16)), lossy=True)
    assert agreement.verdict in ("verified", "degraded"), agreement.summary


@families
def test_the_bundle_answers_as_the_torch_module_does(name: str, trained: Paths, built: Paths) -> None:
    samples = scoring(trained(name)).take(slice(0, 8))
    agreement = edgeai.verify(
        str(trained(name)), built(name), samples, lossy=True, max_drop=1.0, metric=FAMILIES[name].metric
    )
    assert agreement.verdict == "verified", agreement.summary
    with edgeai.load(built(name)) as session:
        report = session.bundle.manifest["results"]["build"]
        assert session.bundle.task["task"] == FAMILIES[name].task
    assert [row["name"] for row in report["rows"]][:2] == [TORCH, BASELINE]
    assert report["metric"] in METRICS
    kept = next(row for row in report["rows"] if row["name"] == report["chosen"])
    assert kept["reason"].startswith("kept")
    assert all(row["reason"] for row in report["rows"])
    assert np.isfinite(kept["metric"])
