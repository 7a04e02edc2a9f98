"""Export: capture a module, prove the graph equal to it on shapes and values that the trace never saw, write it.

What cannot be proven is not written.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from edgeai import modelfile
from edgeai.agreement import Agreement
from edgeai.artifact import Artifact
from edgeai.caching import with_empty_cache
from edgeai.eager import EagerEngine
from edgeai.errors import ExportError, ModelFormatError, UsageError, VerificationError
from edgeai.exporting.compatibility import Limits, limits
from edgeai.exporting.conversion import convert, lower_ir
from edgeai.exporting.decoder import DECODER_OPSET, DecoderGraph
from edgeai.exporting.greedy import prove_greedy
from edgeai.exporting.inputs import DynamicAxes
from edgeai.exporting.masked_rows import guard_masked_rows
from edgeai.exporting.sources import Source, from_module
from edgeai.exporting.tracing import TORCH_EXPORT, TORCHSCRIPT, FinalError, Trace, trace
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
    target_ort: str | None = None,
    tolerance: Tolerance = EXACT,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> Artifact:
    """Write `subject` to `out` as ONNX, proven equal to PyTorch over its declared axes and ranges.

    `samples` are real inputs to prove it on as well; for a bare module they (or one example feed by name, or a
    tuple in the order of `forward`) also say what the inputs are. `dynamic` names the axes that may change, as
    `{"x": {0: "batch"}}`; without it axis 0 is taken to be the batch, if that can be proven, and said.
    `opset` defaults to 20, to 23 for decoders, and for an ONNX file to its own (see `conversion.convert`), each
    lowered to what `target_ort` opens, the oldest release of ONNX Runtime ("1.17") that the file is for.

    Where torch.export fails, or its graph disagrees, the TorchScript exporter is tried, and that is said.

    Raises ExportError if the module cannot be captured, VerificationError naming output, index and both values if
    the graph disagrees (`out` is then not written), SourceError if the inputs are not known, UsageError if
    `target_ort` does not open `opset`, ExistsError.
    """
    out = Path(out)
    target = limits(target_ort)
    refuse_existing(out, overwrite)
    source = _source(subject, samples, dynamic)
    if source.module is None:
        assert source.path is not None  # a source without a module is a file
        if output_names:
            raise UsageError(f"{source.name} is ONNX: its outputs have names already")
        real = samples if isinstance(samples, Samples) else None
        return convert(
            source.path, real, out=out, opset=opset, limits=target, tolerance=tolerance, seed=seed,
            overwrite=overwrite, progress=progress,
        )  # fmt: skip
    for note in source.notes:
        progress.log(note)
    source = _named(source, output_names)
    real = samples if isinstance(samples, Samples) else _one(source.example)
    real = None if real is None else with_empty_cache(real, source.signature)
    default = DECODER_OPSET if source.is_decoder else OPSET
    plan = _Plan(out, target.opset_for(opset, default), target, tolerance, seed, overwrite)
    if opset is None and plan.opset < default:
        progress.log(f"opset {plan.opset} in place of {default}: {target.runtime} opens no newer one")
    try:
        return _with_batch(source, real, plan, progress) if source.assumed else _export(source, real, plan, progress)
    except (ExportError, VerificationError) as error:
        kind = ExportError if isinstance(error, ExportError) else VerificationError
        raise kind(f"{out} is not written: {error.message}", hint=error.hint) from error


@dataclasses.dataclass(frozen=True)
class _Plan:
    out: Path
    opset: int
    target: Limits
    tolerance: Tolerance
    seed: int
    overwrite: bool


def _with_batch(source: Source, samples: Samples | None, plan: _Plan, progress: Progress) -> Artifact:
    progress.log("axis 0 of every input is taken to be the batch; declare dynamic axes to change that")
    try:
        return _export(source, samples, plan, progress)
    except (ExportError, VerificationError) as error:
        progress.log(f"the batch cannot be dynamic ({error.message}): exporting with the sizes of the example")
        return _export(_fixed(source), samples, plan, progress)


class _UnanswerableError(VerificationError):
    """The module itself gives nothing to compare, so no graph of it can be proven."""


def _export(source: Source, samples: Samples | None, plan: _Plan, progress: Progress) -> Artifact:
    """By way of torch.export; where that fails or is wrong, of TorchScript, unless the module's code has to change."""
    progress.log(f"capturing {source.name} at opset {plan.opset}")
    try:
        return _by_way_of(TORCH_EXPORT, source, samples, plan, progress)
    except (ExportError, VerificationError) as error:
        if isinstance(error, FinalError | _UnanswerableError):
            raise
        first = error
    progress.log(f"by way of TorchScript, because {first.message}")
    try:
        return _by_way_of(TORCHSCRIPT, source, samples, plan, progress, reason=first.message)
    except (ExportError, VerificationError) as error:
        raise type(first)(f"{first.message}; {error.message}", hint=first.hint or error.hint) from error


def _by_way_of(
    exporter: str, source: Source, samples: Samples | None, plan: _Plan, progress: Progress, *, reason: str = ""
) -> Artifact:
    """Capture, write aside, prove, and only then give the file its name. `reason` says why not torch.export."""
    assert source.module is not None
    feed = trace_feed(source.signature, source.example)
    traced = trace(source.module, source.signature, feed, opset=plan.opset, exporter=exporter)
    lower_ir(traced.model, plan.target)
    signature = dataclasses.replace(source.signature, outputs=modelfile.signature_of(traced.model).outputs)
    unproven = Artifact(plan.out, (), signature)
    # Nothing here may differ from run to run or tell the author's file names: the same module gives the same bytes.
    options: dict[str, object] = {"source": source.name, "exporter": exporter, "opset": plan.opset}
    options |= {"ir_version": traced.model.ir_version} | (
        {"reason": re.sub(r" \([^()]*:\d+\)", "", reason)} if reason else {}
    )
    try:
        return _written(source, traced, unproven, options, samples, plan, progress)
    except ModelFormatError as error:
        why = error.message.removeprefix(f"{plan.out}: ")
        hint = "an operator has no kernel for this dtype; bfloat16 and float16 modules export best as float32"
        raise ExportError(f"{source.name} is captured by {exporter}, but {why}", hint=hint) from error
    except VerificationError as error:
        if isinstance(error, _UnanswerableError) or not guard_masked_rows(traced.model):
            raise
        progress.log(f"trying zeros for rows that attend to nothing, because {error.message}")
        options["repaired"] = "rows that attend to nothing"
        return _written(source, traced, unproven, options, samples, plan, progress)


def _written(
    source: Source, traced: Trace, unproven: Artifact, options: dict[str, object], samples: Samples | None,
    plan: _Plan, progress: Progress,
) -> Artifact:  # fmt: skip
    """The draft, which becomes the file once it is proven."""
    with modelfile.draft(traced.model, unproven, overwrite=plan.overwrite) as draft:
        agreement = _prove(source, draft, samples, plan, progress)
        if traced.unproven is not None and _leaves_out(agreement):
            raise traced.unproven
        _refuse_wrong(agreement, f"{source.name} by way of {options['exporter']}", draft.path)
        progress.log(agreement.summary)
        options["verified"] = {"feeds": agreement.feeds, "axes": agreement.proven()}
        if isinstance(source.module, DecoderGraph):
            options["generated"] = _generate(source.module, draft.path, plan, progress)
        artifact = unproven.after(modelfile.step("export", options), plan.out)
        modelfile.stamp(draft.path, artifact)
    return artifact


def _prove(source: Source, draft: Artifact, samples: Samples | None, plan: _Plan, progress: Progress) -> Agreement:
    assert source.module is not None and draft.signature is not None
    with EagerEngine(source.module, source.signature) as reference, load(draft.path, ep="cpu") as candidate:
        return verify(
            reference, candidate, samples, signature=draft.signature,
            tolerance=plan.tolerance, seed=plan.seed, progress=progress,
        )  # fmt: skip


def _generate(graph: DecoderGraph, draft: Path, plan: _Plan, progress: Progress) -> dict[str, object]:
    with load(draft, ep="cpu") as engine:
        found = prove_greedy(graph, engine, seed=plan.seed, progress=progress)
    progress.log(found.summary)
    return found.to_json()


def _leaves_out(agreement: Agreement) -> bool:
    """Does the module refuse a size that is declared?"""
    return any(finding.text.startswith("not proven at") for finding in agreement.findings)


def _refuse_wrong(agreement: Agreement, what: str, draft: Path) -> None:
    try:
        agreement.require_verified(what)
    except VerificationError as error:
        kind = _UnanswerableError if agreement.verdict == "unverified" else VerificationError
        raise kind(error.message.replace(f"{draft}: ", ""), hint=error.hint) from error


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
