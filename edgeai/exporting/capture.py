"""Export: capture a module, prove the graph equal to it on shapes and values that the trace never saw, write it.

What cannot be proven is not written.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from edgeai import modelfile
from edgeai.agreement import Agreement
from edgeai.artifact import Artifact
from edgeai.eager import EagerEngine
from edgeai.errors import ExportError, ModelFormatError, UsageError, VerificationError
from edgeai.exporting.conversion import convert
from edgeai.exporting.decoder import DECODER_OPSET, with_empty_cache
from edgeai.exporting.inputs import DynamicAxes
from edgeai.exporting.sources import Source, from_module
from edgeai.exporting.tracing import Trace, trace
from edgeai.probing import axis_names, probe_feeds
from edgeai.progress import SILENT, Progress
from edgeai.runtime.loading import load
from edgeai.samples import Samples
from edgeai.spec import Array, Feed, Signature
from edgeai.storage import refuse_existing
from edgeai.verification import EXACT, Tolerance, verify

OPSET = 20  # the first in which Gelu is one operator, which ONNX Runtime fuses further


def export(
    subject: nn.Module | Source,
    samples: Samples | Mapping[str, Array | Tensor] | Sequence[Array | Tensor] | Tensor | None = None,
    *,
    out: str | Path,
    dynamic: DynamicAxes | None = None,
    output_names: Sequence[str] = (),
    opset: int | None = None,
    tolerance: Tolerance = EXACT,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> Artifact:
    """Write `subject` to `out` as ONNX, proven equal to PyTorch over its declared axes and ranges.

    `samples` are real inputs to prove it on as well; for a bare module they (or one example feed by name, or a
    tuple in the order of `forward`) also say what the inputs are. `dynamic` names the axes that may change, as
    `{"x": {0: "batch"}}`; without it axis 0 is taken to be the batch, if that can be proven, and said.
    `opset` defaults to 20, to 23 for decoders, and for an ONNX file to its own (see `conversion.convert`).

    Raises ExportError if the module cannot be captured, VerificationError naming output, index and both values if
    the graph disagrees (`out` is then not written), SourceError if the inputs are not known, ExistsError.
    """
    out = Path(out)
    refuse_existing(out, overwrite)
    source = _source(subject, samples, dynamic)
    if source.module is None:
        assert source.path is not None  # a source without a module is a file
        if output_names:
            raise UsageError(f"{source.name} is ONNX: its outputs have names already")
        real = samples if isinstance(samples, Samples) else None
        return convert(
            source.path, real, out=out, opset=opset, tolerance=tolerance, seed=seed, overwrite=overwrite,
            progress=progress,
        )  # fmt: skip
    source = _named(source, output_names)
    real = samples if isinstance(samples, Samples) else _one(source.example)
    if source.is_decoder and real is not None and set(real.rows) == {"input_ids"}:
        real = with_empty_cache(real, source.signature)
    plan = _Plan(out, opset or (DECODER_OPSET if source.is_decoder else OPSET), tolerance, seed, overwrite)
    if not source.assumed:
        return _export(source, real, plan, progress)
    progress.log("axis 0 of every input is taken to be the batch; declare dynamic axes to change that")
    try:
        return _export(source, real, plan, progress)
    except (ExportError, VerificationError) as error:
        progress.log(f"the batch cannot be dynamic ({error.message}): exporting with the sizes of the example")
        return _export(_fixed(source), real, plan, progress)


@dataclasses.dataclass(frozen=True)
class _Plan:
    out: Path
    opset: int
    tolerance: Tolerance
    seed: int
    overwrite: bool


def _export(source: Source, samples: Samples | None, plan: _Plan, progress: Progress) -> Artifact:
    assert source.module is not None
    progress.log(f"capturing {source.name} at opset {plan.opset}")
    traced = trace(source.module, source.signature, trace_feed(source.signature, source.example), opset=plan.opset)
    if traced.failure is not None:
        progress.log(f"exported by way of TorchScript, because {traced.failure.message}")
    written = modelfile.signature_of(traced.model)
    signature = dataclasses.replace(source.signature, outputs=written.outputs)
    unproven = Artifact(plan.out, (), signature)
    with tempfile.TemporaryDirectory(prefix="edgeai-export-") as directory:
        draft = _draft(traced, dataclasses.replace(unproven, path=Path(directory, "draft.onnx")), source)
        agreement = _prove(source, draft, samples, plan, progress)
    if traced.failure is not None and agreement.verdict != "verified":
        text = f"{traced.failure.message}; the TorchScript exporter's graph is no better: {agreement.findings[0].text}"
        raise ExportError(text, hint=traced.failure.hint)
    agreement.require_verified(f"{plan.out} is not written: {source.name}")
    progress.log(agreement.summary)
    step = modelfile.step("export", _options(source, traced, plan, agreement))
    return modelfile.save(traced.model, unproven.after(step, plan.out), overwrite=plan.overwrite)


def _draft(traced: Trace, artifact: Artifact, source: Source) -> Artifact:
    try:
        return modelfile.save(traced.model, artifact)
    except ModelFormatError as error:
        why = error.message.removeprefix(f"{artifact.path}: ")
        hint = "an operator has no kernel for this dtype; bfloat16 and float16 modules export best as float32"
        raise ExportError(f"{source.name} is captured, but {why}", hint=hint) from error


def _prove(source: Source, draft: Artifact, samples: Samples | None, plan: _Plan, progress: Progress) -> Agreement:
    assert source.module is not None and draft.signature is not None
    with EagerEngine(source.module, source.signature) as reference:
        candidate = load(draft.path, ep="cpu")
        try:
            return verify(
                reference, candidate, samples, signature=draft.signature,
                tolerance=plan.tolerance, seed=plan.seed, progress=progress,
            )  # fmt: skip
        finally:
            candidate.close()


def _options(source: Source, traced: Trace, plan: _Plan, agreement: Agreement) -> dict[str, object]:
    """What the lineage keeps: nothing that differs from run to run, for the same module gives the same bytes."""
    options: dict[str, object] = {
        "source": source.name,
        "exporter": traced.exporter,
        "opset": plan.opset,
        "verified": {"feeds": agreement.feeds, "axes": agreement.proven()},
    }
    return options | ({"reason": traced.failure.message} if traced.failure is not None else {})


def trace_feed(signature: Signature, example: Feed) -> Feed:
    """The example, with symbolic axes of size 0 or 1 made larger: a trace takes those two for constants."""
    if any("+" in str(axis) for spec in signature.inputs for axis in spec.shape):
        return probe_feeds(signature, count=1)[0].feed
    feed = dict(example)
    for axis in axis_names(signature):
        if signature.axis(axis).maximum < 2:
            continue
        for spec in signature.inputs:
            for index, name in enumerate(spec.shape):
                if name == axis and feed[spec.name].shape[index] == 1:
                    feed[spec.name] = np.repeat(feed[spec.name], 2, axis=index)
                elif name == axis and feed[spec.name].shape[index] == 0:
                    return probe_feeds(signature, count=1)[0].feed
    return feed


def _source(subject: nn.Module | Source, samples: object, dynamic: DynamicAxes | None) -> Source:
    if isinstance(subject, Source):
        if dynamic is not None:
            raise UsageError("a resolved source knows its dynamic axes", hint="declare them when resolving it")
        return subject
    example = next(samples.feeds(batch=2)) if isinstance(samples, Samples) else samples
    return from_module(subject, example, dynamic=dynamic)  # type: ignore[arg-type]


def _named(source: Source, names: Sequence[str]) -> Source:
    outputs = source.signature.outputs
    if not names:
        return source
    if len(names) != len(outputs) or len(set(names)) != len(names):
        raise UsageError(f"{len(names)} output names for {len(outputs)} outputs", hint="each needs one of its own")
    renamed = tuple(dataclasses.replace(spec, name=name) for spec, name in zip(outputs, names, strict=True))
    return dataclasses.replace(source, signature=dataclasses.replace(source.signature, outputs=renamed))


def _fixed(source: Source) -> Source:
    inputs = tuple(
        dataclasses.replace(spec, shape=tuple(source.example[spec.name].shape)) for spec in source.signature.inputs
    )
    return dataclasses.replace(source, signature=Signature(inputs, source.signature.outputs), assumed=False)


def _one(example: Feed) -> Samples | None:
    return Samples.from_feeds([example]) if example else None
