"""The one verb: apply a recipe, open and run the result, count what became integer, and only then write it."""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from edgeai import modelfile
from edgeai.artifact import Artifact, Step
from edgeai.errors import EdgeAIError, QuantizationError
from edgeai.machine import machine
from edgeai.probing import probe_feeds
from edgeai.progress import SILENT, Progress
from edgeai.quantization.coverage import Coverage, count, measure_coverage, quantized_marks
from edgeai.quantization.observers import calibration_feeds
from edgeai.quantization.preparation import prepare
from edgeai.quantization.recipe import Applied, Recipe, Setting, Streaming
from edgeai.quantization.sessions import open_session
from edgeai.quantization.streaming import (
    STREAMED_ABOVE_BYTES,
    answer_once,
    file_store,
    refuse_far,
    store_rest,
    weight_bytes,
    write_graph,
)
from edgeai.samples import Samples
from edgeai.spec import Feed, Signature
from edgeai.storage import atomic_files, refuse_existing

QuantizedInput = Literal["refuse", "pass"]

_FEEDS = 4


def quantize(
    artifact: Artifact,
    recipe: Recipe,
    *,
    samples: Samples | None = None,
    out: str | Path,
    quantized_input: QuantizedInput = "refuse",
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> Artifact:
    """Write the quantized form of `artifact` to `out`; inputs and outputs keep their names, dtypes and axes.

    This machine is the target: where its CPU would saturate, the recipe leaves one bit of the weights unused unless
    it was told otherwise. The lineage step records the recipe, its own choices, the CPU's features and the `coverage`
    counted in ONNX Runtime's optimized graph. Accuracy is not judged here.

    A model too large for memory is streamed by the recipes that can, and not run; its lineage says so.

    `quantized_input="pass"` copies a model that is quantized already, once the copy has been opened and run; its
    lineage step has what it was recognized by (`passed_through`) and no recipe. What is still float in such a model
    stays so: whoever quantized it left it out for a reason that the file does not tell.

    Raises ExistsError if `out` is there, InputError for samples that do not fit, and QuantizationError, with nothing
    written, for a model that is quantized already, has nothing to quantize, or whose result does not run, answers
    NaN or infinity where the original does not, or has no integer multiplication left in it.
    """
    refuse_existing(out, overwrite)
    source = modelfile.load(artifact.path)
    signature = artifact.signature or modelfile.signature_of(source)
    setting = Setting(str(artifact.path), signature, samples, machine(), progress)
    if quantized_input == "pass" and (marks := quantized_marks(source)):
        return _passed(source, marks, setting, artifact, out, overwrite)
    if recipe.needs_samples and samples is None:
        raise QuantizationError(f"{recipe.name} needs calibration samples", hint="-d samples.npz (samples=...)")
    opset = source.opset_imports.get("", 0)
    if opset < recipe.minimum_opset:
        raise QuantizationError(
            f"{artifact.path}: opset {opset}, but {recipe.name} needs at least {recipe.minimum_opset}",
            hint=f"raise it: edgeai export FILE --opset {recipe.minimum_opset} -o NEW.onnx",
        )
    if isinstance(recipe, Streaming) and recipe.streams and weight_bytes(source) > STREAMED_ABOVE_BYTES:
        return _streamed(source, recipe, setting, artifact, out, overwrite)
    applied = recipe.apply(prepare(source, artifact.path), setting)
    coverage = _accept(applied, artifact, setting)
    step = _step(recipe, applied, setting, coverage, artifact)
    return modelfile.save(applied.model, artifact.after(step, out, signature), overwrite=overwrite)


def _passed(
    source: ir.Model, marks: list[str], setting: Setting, artifact: Artifact, out: str | Path, overwrite: bool
) -> Artifact:
    """A copy of a model that is quantized already, opened and run beside it."""
    setting.progress.log(f"{setting.source}: is quantized already (it has {', '.join(marks)}) and passed through")
    coverage = _try(source, artifact, setting)
    options: dict[str, object] = {
        "recipe": None,
        "passed_through": marks,
        "cpu_features": list(setting.target.features),
        "coverage": dataclasses.asdict(coverage),
    }
    done = artifact.after(modelfile.step("quantize", options, artifact), out, setting.signature)
    return modelfile.save(source, done, overwrite=overwrite)


def _streamed(
    source: ir.Model, recipe: Recipe, setting: Setting, artifact: Artifact, out: str | Path, overwrite: bool
) -> Artifact:
    """Weight after weight into the output's data file; the float model is never in memory, and so never run."""
    size = f"{weight_bytes(source) / 1e9:.1f} GB"
    setting.progress.log(f"{size} of weights are streamed: the float model is not run, and samples are not used")
    setting = dataclasses.replace(setting, samples=None)  # using them would mean running it
    with atomic_files(out, overwrite=overwrite) as directory:
        with file_store(directory) as store:
            applied = recipe.apply(prepare(source, artifact.path), dataclasses.replace(setting, store=store))
            store_rest(applied.model, store)
        errors = applied.choices["weight_errors"]
        assert isinstance(errors, dict)
        refuse_far(errors)
        coverage = count(applied.model)
        _refuse_unchanged(applied, coverage, setting)
        proof = "weights compared one by one, one feed answered; the float model was not run: it is too large"
        step = _step(recipe, applied, setting, coverage, artifact, proof=proof, verdict="unverified")
        done = artifact.after(step, out, setting.signature)
        answer_once(write_graph(applied.model, done, directory), setting.signature, setting.source)
    return done


def _step(
    recipe: Recipe, applied: Applied, setting: Setting, coverage: Coverage, artifact: Artifact, **more: object
) -> Step:
    options = {
        "recipe": recipe.name,
        **_fields(recipe),
        **applied.choices,
        "cpu_features": list(setting.target.features),
        "coverage": dataclasses.asdict(coverage),
        **more,
    }
    return modelfile.step("quantize", options, artifact)


def _fields(recipe: Recipe) -> dict[str, object]:
    return dataclasses.asdict(recipe) if dataclasses.is_dataclass(recipe) else {}


def _accept(applied: Applied, artifact: Artifact, setting: Setting) -> Coverage:
    """Open the result, run it beside the original, and count. Raises QuantizationError if it cannot be used."""
    coverage = _try(applied.model, artifact, setting)
    _refuse_unchanged(applied, coverage, setting)
    return coverage


def _try(model: ir.Model, artifact: Artifact, setting: Setting) -> Coverage:
    reference = open_session(artifact.path)  # first: a fault of the original is not the quantizer's
    with tempfile.TemporaryDirectory(prefix="edgeai-") as directory:
        path = Path(directory) / "candidate.onnx"
        try:
            modelfile.save(model.clone(), Artifact(path))
        except EdgeAIError as error:
            raise QuantizationError(f"{setting.source}: the quantized graph is not valid: {error.message}") from error
        _run_beside(reference, open_session(path), setting)
        stored = count(model)  # ONNX Runtime converts some weights back when it loads them
        return dataclasses.replace(
            measure_coverage(path),
            half_weight_share=stored.half_weight_share,
            stored_integer_share=stored.stored_integer_share,
        )


def _refuse_unchanged(applied: Applied, coverage: Coverage, setting: Setting) -> None:
    """Raise QuantizationError if the result has none of what the recipe is for."""
    shown, made, hint = {
        "integers": (coverage.integer_nodes, "nothing became integer", "try another activation or weight type"),
        "stored": (coverage.stored_integer_share, "no weight became integer", ""),
        "halves": (coverage.half_weight_share, "no weight is in half precision", ""),
    }[applied.shows]
    if not shown:
        names = ", ".join(coverage.float_names[:5]) or "no weights at all"
        reason = f"{setting.source}: {made}; ONNX Runtime still multiplies in float at {names}"
        raise QuantizationError(reason, hint=hint)


def _run_beside(reference: Any, quantized: Any, setting: Setting) -> None:
    """Refuse a session that fails, answers in other shapes, or is not finite where the original's is."""
    answered = 0
    for description, feed in _feeds(setting.signature, setting.samples):
        try:
            wanted = reference.run(None, dict(feed))
        # onnxruntime's exceptions share no base below Exception. What the original refuses proves nothing.
        except Exception as error:
            setting.progress.log(f"{description} left out: the float model refuses it ({error})")
            continue
        answered += 1
        try:
            answers = quantized.run(None, dict(feed))
        except Exception as error:
            raise QuantizationError(f"{setting.source}: quantized, it fails at {description}: {error}") from error
        for spec, want, got in zip(setting.signature.outputs, wanted, answers, strict=True):
            want, got = np.asarray(want), np.asarray(got)
            if want.shape != got.shape or want.dtype != got.dtype:
                raise QuantizationError(
                    f"{setting.source}: quantized, {spec.name} is {got.dtype}{got.shape} at {description}, "
                    f"was {want.dtype}{want.shape}"
                )
            if want.dtype.kind == "f" and not np.isfinite(got[np.isfinite(want)]).all():
                raise QuantizationError(f"{setting.source}: quantized, {spec.name} is NaN or infinite at {description}")
    if not answered:
        raise QuantizationError(
            f"{setting.source}: answers none of the generated feeds, so the result cannot be tried",
            hint="give samples (-d samples.npz)",
        )


def _feeds(signature: Signature, samples: Samples | None) -> list[tuple[str, Feed]]:
    given = itertools.islice(calibration_feeds(signature, samples), _FEEDS) if samples is not None else ()
    feeds: list[tuple[str, Feed]] = [(f"sample {index}", feed) for index, feed in enumerate(given)]
    return feeds + [(probe.description, probe.feed) for probe in probe_feeds(signature, seed=0, count=_FEEDS)]
