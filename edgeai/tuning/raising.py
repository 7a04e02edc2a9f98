"""A file of an old opset, as a recipe needs it: quantizers and graph passes do not know each other."""

from __future__ import annotations

from pathlib import Path

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.errors import EdgeAIError, QuantizationError
from edgeai.graph import RaiseOpset, optimize
from edgeai.progress import SILENT, Progress
from edgeai.quantization import Recipe
from edgeai.quantization.coverage import quantized_marks
from edgeai.samples import Samples


def raise_opset(
    artifact: Artifact, recipe: Recipe, samples: Samples | None = None, *, out: Path, progress: Progress = SILENT
) -> Artifact:
    """`artifact`, or where its opset is too old for `recipe`, what it became at `out`: the same in a newer opset.

    It has answered `samples` and generated feeds as before. A model that is quantized already stays as it is.
    Raises QuantizationError, with nothing written, if it cannot be raised.
    """
    model = modelfile.load(artifact.path)
    opset, needed = model.opset_imports.get("", 0), recipe.minimum_opset
    if opset >= needed or quantized_marks(model):
        return artifact
    refusal = f"{artifact.path}: opset {opset}, but {recipe.name} needs at least {needed}, and it cannot be raised"
    try:
        raised = optimize(artifact, out=out, passes=[RaiseOpset(needed)], target="portable", samples=samples)
    except EdgeAIError as error:
        raise QuantizationError(f"{refusal}: {error.message}", hint=error.hint) from error
    if failed := raised.lineage[-1].options["rolled_back"]:
        out.unlink()
        raise QuantizationError(f"{refusal}: {failed[0]['reason']}")
    progress.log(
        f"{artifact.path}: opset {opset} was raised to {needed}, which {recipe.name} needs; it answers as before"
    )
    return raised
