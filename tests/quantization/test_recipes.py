"""Every recipe on every model: a new recipe is tested by standing in RECIPES."""

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
from edgeai.machine import machine
from edgeai.quantization import RECIPES, quantize
from edgeai.quantization.half_precision import HalfPrecision
from edgeai.samples import Samples

# Of a case's tolerance, which is that of int8 activations.
TOLERANCE = {"int4-weight": 5.0, "fp16": 0.1, "bf16": 0.5}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_on_a_model(
    name: str, case: Any, write: Callable[..., Artifact], distance: Callable[..., float], tmp_path: Path, capfd: Any
) -> None:
    artifact = write(case.body, opset=case.opset, **case.weights)
    if name in case.refused:
        with pytest.raises(QuantizationError):
            quantize(artifact, RECIPES[name](), samples=case.samples, out=tmp_path / "q.onnx")
        return
    done = quantize(artifact, RECIPES[name](), samples=case.samples, out=tmp_path / "q.onnx")
    assert distance(artifact, done, case.samples) < case.tolerance * TOLERANCE.get(name, 1.0)
    opened = modelfile.open_artifact(done.path)
    assert opened.signature == artifact.signature
    assert modelfile.signature_of(modelfile.load(done.path)) == modelfile.signature_of(modelfile.load(artifact.path))
    if "com.microsoft" not in modelfile.load(done.path).opset_imports:
        onnx.checker.check_model(str(done.path), full_check=True)
    step = opened.lineage[-1]
    assert (step.tool, step.options["recipe"]) == ("quantize", name)
    clamped = step.options.get("saturation", {"clamped": 1})["clamped"] > 0
    reduced = clamped and not machine().has_int8_dot_product
    assert step.options.get("reduce_range", reduced) is reduced
    assert step.options["cpu_features"] == list(machine().features)
    coverage = step.options["coverage"]
    if issubclass(RECIPES[name], HalfPrecision):
        assert coverage["half_weight_share"] > 0.0
    else:
        assert coverage["integer_nodes"] >= 1 or coverage["float_names"]
        assert coverage["stored_integer_share"] > 0.0
    assert capfd.readouterr() == ("", ""), "the quantizer's and the runtime's chatter stays inside"
    with pytest.raises(QuantizationError, match="is quantized already|has no float32 weight|no float32 product"):
        quantize(done, RECIPES[name](), samples=case.samples, out=tmp_path / "again.onnx")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_on_what_torch_exports(
    name: str, exported_mlp: Artifact, distance: Callable[..., float], tmp_path: Path
) -> None:
    samples = Samples.from_rows({"x": np.random.default_rng(0).standard_normal((32, 16)).astype(np.float32)})
    done = quantize(exported_mlp, RECIPES[name](), samples=samples, out=tmp_path / "q.onnx")
    assert distance(exported_mlp, done, samples) < 0.03 * TOLERANCE.get(name, 1.0)
    coverage = done.lineage[-1].options["coverage"]
    if issubclass(RECIPES[name], HalfPrecision):
        assert (coverage["float_nodes"], coverage["half_weight_share"]) == (2, 1.0)
    else:
        assert (coverage["integer_nodes"], coverage["float_nodes"], coverage["integer_weight_share"]) == (2, 0, 1.0)


@pytest.mark.parametrize("name", RECIPES)
def test_the_same_input_gives_the_same_bytes(name: str, case: Any, write: Callable[..., Any], tmp_path: Path) -> None:
    if name in case.refused:
        pytest.skip("the recipe does not apply to this model")
    artifact = write(case.body, opset=case.opset, **case.weights)
    paths = [
        quantize(artifact, RECIPES[name](), samples=case.samples, out=tmp_path / f"{i}.onnx").path for i in range(2)
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("name", ["int8-dynamic", "int8-static"])
@pytest.mark.parametrize("activation_type", ["uint8", "int8"])
def test_signed_weights_saturate_on_this_cpu_unless_the_recipe_decides(
    name: str, activation_type: str, write: Callable[..., Artifact], distance: Callable[..., float], tmp_path: Path
) -> None:
    """Weights near their maximum and inputs of 2..3: pairs of products overflow 16 bits."""
    if machine().has_int8_dot_product:
        pytest.skip("this CPU sums int8 products in 32 bits")
    random = np.random.default_rng(0)
    weights = {"W": random.uniform(0.9, 1, (128, 128)), "V": random.uniform(0.9, 1, (128, 16))}
    artifact = write(
        "g (float[n, 128] x) => (float[n, 16] y) { h = MatMul(x, W) y = MatMul(h, V) }",
        **{key: array.astype(np.float32) for key, array in weights.items()},
    )
    samples = Samples.from_rows({"x": random.uniform(2, 3, (16, 128)).astype(np.float32)})
    options: dict[str, Any] = {}
    if name == "int8-static":
        options = {"activation_type": activation_type}
    elif activation_type == "int8":
        pytest.skip("dynamic activations are uint8")

    def error(**chosen: Any) -> float:
        recipe = RECIPES[name](**options, **chosen)
        return distance(
            artifact, quantize(artifact, recipe, samples=samples, out=tmp_path / "q.onnx", overwrite=True), samples
        )

    assert error(reduce_range=False) > 0.2, "the CPU was expected to saturate here"
    assert error() < 0.02
    if activation_type == "uint8":
        assert error(weight_type="uint8") < 0.02, "unsigned weights take kernels that do not saturate"


@pytest.mark.parametrize("name", ["int8-weight", "int4-weight"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_kernels_for_blocks_do_not_saturate(
    name: str, symmetric: bool, write: Callable[..., Artifact], distance: Callable[..., float], tmp_path: Path
) -> None:
    """The weights and inputs that overflow 16 bits in other kernels, on whatever CPU this is."""
    random = np.random.default_rng(0)
    artifact = write(
        "g (float[n, 128] x) => (float[n, 16] y) { h = MatMul(x, W) y = MatMul(h, V) }",
        W=random.uniform(0.9, 1, (128, 128)).astype(np.float32),
        V=random.uniform(0.9, 1, (128, 16)).astype(np.float32),
    )
    samples = Samples.from_rows({"x": random.uniform(2, 3, (16, 128)).astype(np.float32)})
    done = quantize(artifact, RECIPES[name](symmetric=symmetric), out=tmp_path / "q.onnx")
    assert distance(artifact, done, samples) < 0.02
