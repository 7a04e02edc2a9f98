"""The forms of a model that are worth measuring on this target, each written or refused with a reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeai.artifact import Artifact
from edgeai.errors import EdgeAIError
from edgeai.graph import optimize
from edgeai.progress import SILENT, Progress
from edgeai.quantization import Int8Dynamic, Int8Static, quantize
from edgeai.samples import Samples

BASELINE = "fp32"
OPTIMIZED = "fp32-optimized"


@dataclass(frozen=True)
class Candidate:
    """`artifact` is None where the form could not be made; `refused` then says why."""

    name: str
    artifact: Artifact | None
    lossy: bool = False
    refused: str = ""


def candidates(
    baseline: Artifact,
    directory: Path,
    *,
    target: str = "cpu",
    calibration: Samples | None = None,
    progress: Progress = SILENT,
) -> Iterator[Candidate]:
    """Write the forms of `baseline` into `directory`: rewritten for the target, and with integer weights.

    Quantizers know the standard operators only, so they get the portable rewrite, not the target's fused one.
    Without calibration samples no static form is made: calibrating on invented data would lie.
    """
    yield _made(
        OPTIMIZED,
        lambda out: optimize(baseline, out=out, target=target, samples=calibration, progress=progress),
        directory,
    )
    try:
        portable = optimize(
            baseline, out=directory / "portable.onnx", target="portable", samples=calibration, progress=progress
        )
    except EdgeAIError as error:
        progress.log(f"quantizing the graph as exported: {error.message}")
        portable = baseline
    yield _made(
        "int8-dynamic",
        lambda out: quantize(portable, Int8Dynamic(), samples=calibration, out=out, progress=progress),
        directory,
        lossy=True,
    )
    if calibration is None:
        yield Candidate("int8-static", None, True, "not tried: no samples to calibrate with (-d samples.npz)")
    else:
        yield _made(
            "int8-static",
            lambda out: quantize(portable, Int8Static(), samples=calibration, out=out, progress=progress),
            directory,
            lossy=True,
        )


def _made(name: str, make: Callable[[Path], Artifact], directory: Path, *, lossy: bool = False) -> Candidate:
    try:
        return Candidate(name, make(directory / f"{name}.onnx"), lossy)
    except EdgeAIError as error:  # a form that cannot be made is an answer, not the end of the build
        reason = error.message.replace(f"{directory}/", "")  # gone when anyone reads this
        return Candidate(name, None, lossy, f"not possible: {reason}")
