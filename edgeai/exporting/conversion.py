"""ONNX files of other producers: accepted at opset 7 to 26, checked, and raised or lowered where asked, with proof."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx import version_converter
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.errors import EdgeAIError, ExportError, ModelFormatError
from edgeai.exporting.compatibility import NEWEST_OPSET, OLDEST_OPSET, Limits
from edgeai.progress import SILENT, Progress
from edgeai.runtime.loading import load
from edgeai.samples import Samples
from edgeai.storage import refuse_existing
from edgeai.verification import EXACT, Tolerance, verify

_FUNCTIONS_SINCE_IR = 8


def convert(
    path: str | Path,
    samples: Samples | None = None,
    *,
    out: str | Path,
    opset: int | None = None,
    limits: Limits | None = None,
    tolerance: Tolerance = EXACT,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> Artifact:
    """Write the model at `path` to `out` at `opset` (default: its own, within `limits`), proven to answer as before.

    Raises ModelFormatError if it cannot be read or opened, UsageError if `opset` is out of range, ExportError if the
    model's own is or ONNX has no conversion for one of its operators, VerificationError if the result disagrees
    (nothing is then written).
    """
    limits = limits or Limits()
    refuse_existing(out, overwrite)
    source = modelfile.open_artifact(path)
    model = modelfile.load(path)
    found = model.opset_imports.get("", 0)
    if not OLDEST_OPSET <= found <= NEWEST_OPSET:
        raise ExportError(f"{path} is at opset {found}", hint=f"{OLDEST_OPSET} to {NEWEST_OPSET} are accepted")
    opset = limits.opset_for(opset, found)
    if opset != found:
        progress.log(f"converting {path} from opset {found} to {opset}")
        model = at_opset(model, opset, str(path))
    lower_ir(model, limits)
    ClearMetadataAndDocStringPass()(model)
    options: dict[str, object] = {"source": Path(path).name, "opset": [found, opset], "ir_version": model.ir_version}
    with _draft(model, Artifact(Path(out), (), source.signature), f"{path} at opset {opset}", overwrite) as draft:
        with load(path, ep="cpu") as reference, load(draft.path, ep="cpu") as candidate:
            agreement = verify(
                reference, candidate, samples, signature=source.signature, tolerance=tolerance, seed=seed,
                progress=progress,
            )  # fmt: skip
        agreement.require_verified(f"{out} is not written: {path} at opset {opset}:")
        progress.log(agreement.summary)
        options["verified"] = {"feeds": agreement.feeds, "axes": agreement.proven()}
        artifact = source.after(modelfile.step("export", options, source), out)
        modelfile.stamp(draft.path, artifact)
    return artifact


@contextlib.contextmanager
def _draft(model: ir.Model, artifact: Artifact, what: str, overwrite: bool) -> Iterator[Artifact]:
    try:
        with modelfile.draft(model, artifact, overwrite=overwrite) as draft:
            yield draft
    except ModelFormatError as error:
        raise ExportError(f"{what} is not written: {error.message.removeprefix(f'{artifact.path}: ')}") from error


def lower_ir(model: ir.Model, limits: Limits) -> None:
    """Write the model at an IR version that the runtime opens. Raises ExportError if the model needs a newer one."""
    if model.functions and limits.ir_version < _FUNCTIONS_SINCE_IR:
        raise ExportError(
            f"the model has functions of its own, which need IR version {_FUNCTIONS_SINCE_IR}: {limits.runtime} "
            f"opens {limits.ir_version}",
            hint="target ONNX Runtime 1.11 or newer",
        )
    model.ir_version = min(model.ir_version, limits.ir_version)


def at_opset(model: ir.Model, opset: int, what: str) -> ir.Model:
    """`model` at `opset`, by ONNX's version converter where it is not there already; the caller has to verify it.

    Raises ExportError, naming `what`, if an operator has no conversion.
    """
    found = model.opset_imports.get("", 0)
    if found == opset:
        return model
    ir.external_data.load_to_model(model)
    try:
        proto = ir.to_proto(model)
        # What the converter adds must not be checked against shapes that another opset inferred.
        del proto.graph.value_info[:]
        onnx.checker.check_model(proto)
        converted: ir.Model = ir.from_proto(version_converter.convert_version(proto, opset))
        _drop_unknown(converted, opset)
    # The converter is C++ and raises plain RuntimeErrors; protobuf raises ValueError beyond 2 GB.
    except (RuntimeError, ValueError, IndexError, onnx.checker.ValidationError, EdgeAIError) as error:
        first = re.sub(r".*Assertion `.*` failed: ", "", str(error).strip().splitlines()[0])
        raise ExportError(
            f"{what} at opset {found} cannot be converted to opset {opset}: {first}",
            hint=f"an opset nearer to {found} is likelier to work",
        ) from error
    written = converted.opset_imports.get("")
    if written != opset:
        raise ExportError(f"{what}: opset {opset} was asked for, the converter wrote {written}")
    return converted


def _drop_unknown(model: ir.Model, opset: int) -> None:
    """The converter turns a reduction's axes back into an attribute, but leaves one that older opsets do not know."""
    for node in model.graph.all_nodes():
        since = 13 if node.op_type == "ReduceSum" else 18
        empty = node.attributes.get("noop_with_empty_axes")
        if node.op_type.startswith("Reduce") and opset < since and empty is not None and "axes" in node.attributes:
            del node.attributes["noop_with_empty_axes"]
