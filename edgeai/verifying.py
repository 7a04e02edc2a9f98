"""`edgeai.verify`: do two things that answer agree, whatever they are: modules, files, bundles, engines?

And is a bundle still what it was proven to be, here? `verify_bundle` needs numpy and ONNX Runtime alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeai import bench, verification
from edgeai.agreement import EXIT_CODES, Agreement, Verdict
from edgeai.artifact import Artifact
from edgeai.bundle import is_bundle
from edgeai.caching import with_empty_cache
from edgeai.errors import UsageError
from edgeai.metrics import METRICS
from edgeai.progress import SILENT, Progress
from edgeai.runtime import BundleReport, load
from edgeai.runtime import verify_bundle as verify_answers
from edgeai.runtime.engine import Engine
from edgeai.samples import Samples
from edgeai.spec import Signature
from edgeai.speed import WORKLOAD, SpeedCheck, check_speed

if TYPE_CHECKING:
    from torch import nn


def verify(
    reference: Engine | Artifact | nn.Module | str | Path,
    candidate: Engine | Artifact | str | Path,
    samples: Samples | None = None,
    *,
    lossy: bool = False,
    max_drop: float = 0.005,
    metric: str | None = None,
    output: str | None = None,
    ep: str | Sequence[str] = "cpu",
    seed: int = 0,
    progress: Progress = SILENT,
) -> Agreement:
    """Run both sides on `samples` and on generated inputs over the candidate's declared shapes, and compare.

    `reference` is a module, a source as the command line takes it (`model.py:Net`, a trained directory), a model
    file, a bundle or an engine; `candidate` the same but for modules. `lossy` judges a quantized candidate: by
    `metric` (and `max_drop`, relative) where the samples have labels, else by distance. `output` names the output
    that the metric is scored on (default: the first). Raises UsageError for an unknown metric, and what opening
    either side raises; never for a disagreement, which is what the verdict is for.
    """
    if metric is not None and metric not in METRICS:
        raise UsageError(f"there is no metric {metric!r}", hint=f"choose one of {', '.join(METRICS)}")
    tolerance = verification.EXACT
    if lossy:
        tolerance = verification.Tolerance(
            verification.QUANTIZED.verified, verification.QUANTIZED.degraded, lossy=True, max_drop=max_drop
        )
    with _engine(candidate, ep, None) as right, _engine(reference, ep, right.signature) as left:
        return verification.verify(
            left,
            right,
            None if samples is None else with_empty_cache(samples, right.signature),
            signature=right.signature,
            tolerance=tolerance,
            metric=None if metric is None else METRICS[metric],
            output=output,
            seed=seed,
            progress=progress,
        )


@dataclass(frozen=True)
class BundleProof:
    """`answers`: integrity, golden vectors and provider; `speed` is None where it was not asked for."""

    answers: BundleReport
    speed: SpeedCheck | None

    @property
    def verdict(self) -> Verdict:
        """Wrong answers count more than slow ones."""
        if self.answers.verdict == "verified" and self.speed is not None and self.speed.verdict == "degraded":
            return "degraded"
        return self.answers.verdict

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]

    @property
    def summary(self) -> str:
        """A line for the answers, one for the speed, and what else a person should read."""
        lines = [self.answers.summary, *([self.speed.text] if self.speed else []), *self.answers.findings]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain data, the answers' fields at the top."""
        answers = dataclasses.asdict(self.answers) | {"path": str(self.answers.path), "verdict": self.verdict}
        return answers | {"speed": dataclasses.asdict(self.speed) if self.speed else None}


def verify_bundle(
    path: str | Path,
    *,
    ep: str = "auto",
    speed: bool = True,
    workload: bench.Workload = WORKLOAD,
    progress: Progress = SILENT,
) -> BundleProof:
    """Check every byte, run the golden vectors, and see whether the bundle is as fast as where it was made.

    Speed is compared on the same kind of machine only, and takes some seconds; slower than its band is `degraded`.
    Raises IntegrityError, UnsafePathError, ResourceLimitError, ModelFormatError, ProviderError, and BenchmarkError
    if the bundle's process dies while it is measured.
    """
    answers = verify_answers(path, ep=ep)
    if not speed or answers.verdict != "verified":
        return BundleProof(answers, None)
    return BundleProof(answers, check_speed(path, ep=answers.providers[0], workload=workload, progress=progress))


@contextlib.contextmanager
def _engine(subject: object, ep: str | Sequence[str], signature: Signature | None) -> Iterator[Engine]:
    """`signature` is what a bare module is given: it cannot tell its own."""
    if isinstance(subject, Engine):
        yield subject  # the caller's to close
        return
    path = subject.path if isinstance(subject, Artifact) else subject
    if isinstance(path, str | Path) and (Path(path).suffix == ".onnx" or _holds_bundle(Path(path))):
        engine: Engine = load(path, ep=ep)
    else:
        engine = _module_engine(path, signature)
    try:
        yield engine
    finally:
        engine.close()


def _holds_bundle(path: Path) -> bool:
    return is_bundle(path) and not (path / "training.json").exists()


def _module_engine(subject: object, signature: Signature | None) -> Engine:
    from edgeai.eager import EagerEngine
    from edgeai.exporting import resolve

    if isinstance(subject, str | Path):
        source = resolve(str(subject))
        assert source.module is not None  # ONNX files were opened by the caller
        return EagerEngine(source.module, source.signature)
    if signature is None:
        raise UsageError("a module cannot be the candidate", hint="give the module first, then the exported file")
    return EagerEngine(subject, signature)  # type: ignore[arg-type]
