"""The target-specific output: what ONNX Runtime would do to the graph and its weights at every load, done once.

The weights are stored as this CPU's kernels want them, beside the originals, and mapped from the file: loading
copies nothing. The result fits the machine, the version and the provider that it is tagged with; see
`edgeai.runtime.made_for`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from pathlib import Path

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.errors import OptimizationError, UsageError
from edgeai.external import metadata
from edgeai.graph.proof import Proof
from edgeai.machine import machine
from edgeai.ort import onnxruntime
from edgeai.progress import SILENT, Progress
from edgeai.runtime.made_for import MADE_FOR_KEY, MadeFor
from edgeai.runtime.providers import PROVIDERS
from edgeai.samples import Samples
from edgeai.storage import atomic_files, refuse_existing

_EXTERNAL = "session.optimized_model_external_initializers_file"
_PREPACKED = "session.save_external_prepacked_constant_initializers"
_MIN_BYTES = 1024  # smaller weights stay in the graph: a kernel packs them in no time


def specialize(
    artifact: Artifact,
    *,
    out: str | Path,
    samples: Samples | None = None,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> Artifact:
    """Write `artifact` for this CPU and this ONNX Runtime to `out`, its weights to a file beside it.

    Keep the portable model: only that can be rewritten, quantized or specialized elsewhere. The result has answered
    `samples` (if given) and generated feeds as `artifact` does.
    Raises UsageError for a model that was made for one machine already, ExistsError if `out` is there,
    OptimizationError if the result would answer differently.
    """
    out = Path(out)
    refuse_existing(out, overwrite)
    if MADE_FOR_KEY in metadata(artifact.path):
        raise UsageError(f"{artifact.path} was made for one machine already", hint="start from the portable model")
    model = modelfile.load(artifact.path)
    signature = artifact.signature or modelfile.signature_of(model)
    made_for = MadeFor.here("cpu")
    proof = Proof.of(artifact, signature, samples)
    step = modelfile.step("specialize", {"made_for": dataclasses.asdict(made_for), "feeds": len(proof.feeds)}, artifact)
    done = artifact.after(step, out, signature)
    progress.log(f"specializing for {machine().cpu}, ONNX Runtime {made_for.onnxruntime}")
    with tempfile.TemporaryDirectory(prefix="edgeai-") as name:
        stamped = Path(name) / "stamped.onnx"
        model.metadata_props[MADE_FOR_KEY] = made_for.to_json()
        modelfile.save(model, dataclasses.replace(done, path=stamped))  # ONNX Runtime copies the stamps
        with atomic_files(out, overwrite=overwrite) as directory:
            identity = hashlib.sha256(f"{step.parent_sha256}{made_for.to_json()}".encode()).hexdigest()[:16]
            _write(stamped, directory / out.name, f"{out.stem}-{identity}.prepacked")
            if reason := proof.objection_to(directory / out.name):
                raise OptimizationError(f"{out} is not written: {reason}")
    return done


def _write(source: Path, out: Path, data_name: str) -> None:
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = machine().cores
    options.optimized_model_filepath = str(out)
    options.add_session_config_entry(f"{_EXTERNAL}_name", data_name)
    options.add_session_config_entry(f"{_EXTERNAL}_min_size_in_bytes", str(_MIN_BYTES))
    options.add_session_config_entry(_PREPACKED, "1")
    try:
        ort.InferenceSession(str(source), options, providers=[PROVIDERS["cpu"].ort_name])
    # onnxruntime's exceptions share no base below Exception.
    except Exception as error:
        raise OptimizationError(f"{out.name}: ONNX Runtime cannot specialize the model: {error}") from error
