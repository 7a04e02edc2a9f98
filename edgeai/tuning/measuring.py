"""A rewritten or quantized file against the one that it was made from: size, speed and answers, measured here."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgeai import bench, modelfile, verification
from edgeai.artifact import Artifact
from edgeai.bench.statistics import MIN_BLOCKS
from edgeai.caching import with_empty_cache
from edgeai.errors import QuantizationError
from edgeai.external import external_files
from edgeai.machine import machine
from edgeai.probing import probe_feeds
from edgeai.progress import SILENT, Progress
from edgeai.quantization import Recipe, quantize
from edgeai.quantization.quantizing import QuantizedInput
from edgeai.quantization.streaming import STREAMED_ABOVE_BYTES
from edgeai.runtime.loading import load
from edgeai.samples import Samples
from edgeai.storage import refuse_existing
from edgeai.tuning.candidates import BASELINE
from edgeai.tuning.choice import Measured
from edgeai.tuning.raising import raise_opset

# Enough rounds for an interval of the ratio; the report says that it is short.
WORKLOAD = bench.Workload(
    min_iterations=60, min_seconds=0.5, max_seconds=3.0, warmup_min_seconds=0.1, warmup_max_seconds=1.0, rounds=6
)
_TIMED = 16


@dataclass(frozen=True)
class Harm:
    """`ratio` is the median latency over the original's with its 95 % interval; None where it was not resolved.

    `distance` is how far the worst output is off, in relative Euclidean distance.
    """

    bytes_before: int
    bytes_after: int
    ratio: tuple[float, float, float] | None
    distance: float
    verdict: str

    @property
    def is_smaller(self) -> bool:
        return self.bytes_after < self.bytes_before

    @property
    def is_faster(self) -> bool:
        return self.ratio is not None and Measured("", 0, *self.ratio).is_faster

    @property
    def summary(self) -> str:
        """One line."""
        speed = "time not resolved" if self.ratio is None else "{:.2f}x the time ({:.2f}..{:.2f})".format(*self.ratio)
        return f"{speed}, {self.bytes_after / self.bytes_before:.0%} of the size, answers off by {self.distance:.2g}"

    def to_json(self) -> dict[str, object]:
        ratio = None if self.ratio is None else list(self.ratio)
        return {
            "bytes": [self.bytes_before, self.bytes_after],
            "ratio": ratio,
            "distance": self.distance,
            "verdict": self.verdict,
            "cpu": machine().cpu,
        }


def file_bytes(path: Path) -> int:
    """The model's file and its external data."""
    return path.stat().st_size + sum((path.parent / name).stat().st_size for name in external_files(path))


def time_together(
    paths: Mapping[str, Path], samples: Samples, directory: Path, workload: bench.Workload, progress: Progress
) -> bench.Report:
    """Interleaved, each in a process of its own, in the session settings that ship. The first is the baseline."""
    timed = samples.take(slice(0, min(_TIMED, len(samples))))
    inputs = directory / "timed.npz"
    Samples(timed.rows, timed.items, None).save(inputs, overwrite=True)
    subjects = [
        bench.Subject(
            name, "edgeai.runtime.loading:load", {"path": str(path.resolve()), "ep": "cpu"},
            size_bytes=file_bytes(path), preload="edgeai.ort:onnxruntime",
        )
        for name, path in paths.items()
    ]  # fmt: skip
    return bench.measure(subjects, inputs, workload, progress=progress)


def ratio_of(report: bench.Report, name: str) -> tuple[float, float, float] | None:
    """Median latency over the baseline's, and its interval; None for the baseline, or where rounds were too few."""
    ratio = report[name].ratio
    return None if ratio is None or ratio.blocks < MIN_BLOCKS else (ratio.value, ratio.low, ratio.high)


def measure_harm(
    before: Artifact, after: Artifact, samples: Samples | None = None, *, progress: Progress = SILENT
) -> Harm:
    """Compare `after` with `before` on `samples`, or on generated feeds. Both run on the CPU."""
    assert before.signature is not None
    feeds = samples or Samples.from_feeds(
        [probe.feed for probe in probe_feeds(before.signature, count=4, shapes=False)]
    )
    with tempfile.TemporaryDirectory(prefix="edgeai-harm-") as name:
        paths = {BASELINE: before.path, "candidate": after.path}
        report = time_together(paths, feeds, Path(name), WORKLOAD, progress)
        with load(before.path, ep="cpu") as reference, load(after.path, ep="cpu") as candidate:
            agreement = verification.verify(
                reference, candidate, feeds, signature=before.signature, tolerance=verification.QUANTIZED,
                progress=progress,
            )  # fmt: skip
    distance = max((output.distance for output in agreement.outputs), default=0.0)
    sizes = file_bytes(before.path), file_bytes(after.path)
    return Harm(*sizes, ratio_of(report, "candidate"), distance, agreement.verdict)


def quantize_measured(
    artifact: Artifact,
    recipe: Recipe,
    samples: Samples | None = None,
    *,
    out: str | Path,
    quantized_input: QuantizedInput = "refuse",
    force: bool = False,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> tuple[Artifact, Harm | None]:
    """`quantize`, and what was measured of the result against `artifact` in its lineage.

    A model of too old an opset is raised to what the recipe needs first, proven to answer as before, and the lineage
    has that step. Unmeasured, so None: a model too large to be run beside its result, and one that is passed through.

    Raises what `quantize` raises, and QuantizationError, with nothing written, for an opset that cannot be raised, and
    for a result that is neither smaller nor faster, unless `force`.
    """
    if file_bytes(artifact.path) > STREAMED_ABOVE_BYTES:
        return quantize(
            artifact, recipe, samples=samples, out=out, quantized_input=quantized_input, overwrite=overwrite,
            progress=progress,
        ), None  # fmt: skip
    refuse_existing(out, overwrite)
    if samples is not None and artifact.signature is not None:
        samples = with_empty_cache(samples, artifact.signature)
    with tempfile.TemporaryDirectory(prefix="edgeai-quantize-") as name:
        raised = raise_opset(artifact, recipe, samples, out=Path(name, "raised.onnx"), progress=progress)
        draft = quantize(
            raised, recipe, samples=samples, out=Path(name, Path(out).name), quantized_input=quantized_input,
            progress=progress,
        )  # fmt: skip
        if "passed_through" in draft.lineage[-1].options:
            return modelfile.save(modelfile.load(draft.path), replace(draft, path=Path(out)), overwrite=overwrite), None
        harm = measure_harm(artifact, draft, samples, progress=progress)
        if not (harm.is_smaller or harm.is_faster or force):
            raise QuantizationError(
                f"{out} is not written: neither smaller nor faster ({harm.summary})", hint="--force keeps it"
            )
        done = draft.after(modelfile.step("measure", harm.to_json(), draft), out)
        return modelfile.save(modelfile.load(draft.path), done, overwrite=overwrite), harm
