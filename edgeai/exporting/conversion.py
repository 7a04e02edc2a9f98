"""ONNX files of other producers: accepted at opset 7 to 26, checked, and raised or lowered where asked, with proof."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx import version_converter
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.errors import EdgeAIError, ExportError
from edgeai.progress import SILENT, Progress
from edgeai.runtime.loading import load
from edgeai.samples import Samples
from edgeai.storage import refuse_existing
from edgeai.verification import EXACT, Tolerance, verify

# The oldest that ONNX Runtime promises to run, and the newest that 1.31 loads.
OLDEST_OPSET, NEWEST_OPSET = 7, 26


def convert(
    path: str | Path,
    samples: Samples | None = None,
    *,
    out: str | Path,
    opset: int | None = None,
    tolerance: Tolerance = EXACT,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> Artifact:
    """Write the model at `path` to `out` at `opset` (default: its own), proven to answer as it did before.

    Raises ModelFormatError if it cannot be read or opened, ExportError if its opset is out of range or ONNX has no
    conversion for one of its operators, VerificationError if the result disagrees (nothing is then written).
    """
    refuse_existing(out, overwrite)
    source = modelfile.open_artifact(path)
    model = modelfile.load(path)
    found = model.opset_imports.get("", 0)
    for which, number in (("is at", found), ("cannot be written at", opset or found)):
        if not OLDEST_OPSET <= number <= NEWEST_OPSET:
            raise ExportError(f"{path} {which} opset {number}", hint=f"{OLDEST_OPSET} to {NEWEST_OPSET} are accepted")
    if opset is not None and opset != found:
        progress.log(f"converting {path} from opset {found} to {opset}")
        model = _converted(model, Path(path), opset)
    ClearMetadataAndDocStringPass()(model)
    options: dict[str, object] = {"source": Path(path).name, "opset": [found, opset or found]}
    with tempfile.TemporaryDirectory(prefix="edgeai-convert-") as directory:
        draft = modelfile.save(model, Artifact(Path(directory, "draft.onnx"), (), source.signature))
        with load(path, ep="cpu") as reference, load(draft.path, ep="cpu") as candidate:
            agreement = verify(
                reference, candidate, samples, signature=source.signature, tolerance=tolerance, seed=seed,
                progress=progress,
            )  # fmt: skip
    agreement.require_verified(f"{out} is not written: {path} at opset {opset or found}:")
    progress.log(agreement.summary)
    options["verified"] = {"feeds": agreement.feeds, "axes": agreement.proven()}
    return modelfile.save(model, source.after(modelfile.step("export", options, source), out), overwrite=overwrite)


def _converted(model: ir.Model, path: Path, opset: int) -> ir.Model:
    ir.external_data.load_to_model(model)
    proto = ir.to_proto(model)
    # What the converter adds must not be checked against shapes that an older opset inferred.
    del proto.graph.value_info[:]
    try:
        onnx.checker.check_model(proto)
        converted: ir.Model = ir.from_proto(version_converter.convert_version(proto, opset))
    # The converter is C++ and raises plain RuntimeErrors; protobuf raises ValueError beyond 2 GB.
    except (RuntimeError, ValueError, IndexError, EdgeAIError) as error:
        first = str(error).strip().splitlines()[-1]
        raise ExportError(f"{path} cannot be converted to opset {opset}: {first}") from error
    if converted.opset_imports.get("") != opset:
        raise ExportError(f"{path}: opset {opset} was asked for, the converter wrote {converted.opset_imports.get('')}")
    return converted
