"""The one verb: apply a recipe, open and run the result, count what became integer, and only then write it."""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgeai import modelfile
from edgeai.artifact import Artifact, Step
from edgeai.errors import EdgeAIError, QuantizationError
from edgeai.machine import machine
from edgeai.probing import probe_feeds
from edgeai.progress import SILENT, Progress
from edgeai.quantization.coverage import Coverage, count, measure_coverage
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

_FEEDS = 4


def quantize(
    artifact: Artifact,
    recipe: Recipe,
    *,
    samples: Samples | None = None,
    out: str | Path,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> Artifact:
    """Write the quantized form of `artifact` to `out`; inputs and outputs keep their names, dtypes and axes.

    This machine is the target: where its CPU would saturate, the recipe leaves one bit of the weights unused unless
    it was told otherwise. The lineage step records the recipe, its own choices, the CPU's features and the `coverage`
    counted in ONNX Runtime's optimized graph. Accuracy is not judged here.

    A model too large for memory is streamed by the recipes that can, and not run; its lineage says so.

    Raises ExistsError if `out` is there, InputError for samples that do not fit, and QuantizationError, with nothing
    written, for a model that is quantized already, has nothing to quantize, or whose result does not run, answers
    NaN or infinity where the original does not, or has no integer multiplication left in it.
    """
    refuse_existing(out, overwrite)
    if recipe.needs_samples and samples is None:
        raise QuantizationError(f"{recipe.name} needs calibration samples", hint="-d samples.npz (samples=...)")
    source = modelfile.load(artifact.path)
    signature = artifact.signature or modelfile.signature_of(source)
    opset = source.opset_imports.get("", 0)
    if opset < recipe.minimum_opset:
        raise QuantizationError(
            f"{artifact.path}: opset {opset}, but {recipe.name} needs at least {recipe.minimum_opset}",
            hint="edgeai export FILE --opset 20 -o NEW.onnx raises it",
        )
    setting = Setting(str(artifact.path), signature, samples, machine(), progress)
    if isinstance(recipe, Streaming) and recipe.streams and weight_bytes(source) > STREAMED_ABOVE_BYTES:
        return _streamed(source, recipe, setting, artifact, out, overwrite)
    applied = recipe.apply(prepare(source, artifact.path), setting)
    coverage = _accept(applied, artifact, setting)
    step = _step(recipe, applied, setting, coverage, artifact)
    return modelfile.save(applied.model, artifact.after(step, out, signature), overwrite=overwrite)


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
    with tempfile.TemporaryDirectory(prefix="edgeai-") as directory:
        path = Path(directory) / "candidate.onnx"
        try:
            modelfile.save(applied.model.clone(), Artifact(path))
        except EdgeAIError as error:
            raise QuantizationError(f"{setting.source}: the quantized graph is not valid: {error.message}") from error
        _run_beside(artifact.path, path, setting)
        stored = count(applied.model).half_weight_share  # ONNX Runtime converts halves back when it loads them
        coverage = dataclasses.replace(measure_coverage(path), half_weight_share=stored)
    _refuse_unchanged(applied, coverage, setting)
    return coverage


def _refuse_unchanged(applied: Applied, coverage: Coverage, setting: Setting) -> None:
    """Raise QuantizationError if the result has none of what the recipe is for."""
    if coverage.integer_nodes if applied.shows == "integers" else coverage.half_weight_share:
        return
    names = ", ".join(coverage.float_names[:5]) or "no weights at all"
    made = "nothing became integer" if applied.shows == "integers" else "no weight is in half precision"
    raise QuantizationError(
        f"{setting.source}: {made}; ONNX Runtime still multiplies in float at {names}",
        hint="try another activation or weight type" if applied.shows == "integers" else "",
    )


def _run_beside(original: Path, candidate: Path, setting: Setting) -> None:
    """Refuse a candidate that fails, answers in other shapes, or is not finite where the original is."""
    reference, quantized = open_session(original), open_session(candidate)
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
