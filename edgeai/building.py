"""The one-shot main job: export, optimize, quantize, verify, measure, choose, pack, and open it again.

Everything is made in a temporary directory; a build that fails or is killed leaves nothing at the bundle's path.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from edgeai import bench, verification
from edgeai.agreement import Agreement
from edgeai.artifact import Artifact
from edgeai.bundle import Golden, pack
from edgeai.caching import with_empty_cache
from edgeai.eager import EagerEngine
from edgeai.errors import UsageError, VerificationError
from edgeai.exporting import Source, export, from_module, resolve
from edgeai.external import external_files
from edgeai.machine import machine
from edgeai.metrics import METRICS
from edgeai.modelfile import open_artifact
from edgeai.probing import probe_feeds
from edgeai.progress import SILENT, Progress
from edgeai.runtime import load, verify_bundle
from edgeai.runtime.engine import Engine
from edgeai.runtime.remembered import RememberedEngine
from edgeai.samples import Samples
from edgeai.storage import refuse_existing
from edgeai.tuning import BASELINE, Candidate, Measured, candidates, choose

TORCH = "torch"
TARGETS = ("cpu",)

# Short, and labelled so in the report: enough rounds for an interval of the ratio.
WORKLOAD = bench.Workload(
    min_iterations=100, min_seconds=1.0, max_seconds=4.0, warmup_min_seconds=0.1, warmup_max_seconds=2.0, rounds=8
)
_GOLDEN = 4
_TIMED = 16
_EXACT_GOLDEN, _LOSSY_GOLDEN = 1e-3, 5e-2


@dataclass(frozen=True)
class Row:
    """One form of the model: what it weighs, how well and how fast it answers, and why it does or does not ship.

    `p50_ns` is the median latency of one feed, in one interleaved run with the other rows; `ratio` that median over
    the exported float model's, with its 95 % interval. `metric` is None without labelled samples.
    """

    name: str
    size_bytes: int | None
    metric: float | None
    p50_ns: int | None
    ratio: tuple[float, float, float] | None
    verdict: str
    reason: str


@dataclass(frozen=True)
class BuildReport:
    """What was built, from which alternatives. `rows` starts with eager PyTorch, then the exported float model."""

    name: str
    bundle: Path
    chosen: str
    provider: str
    metric: str | None
    verdict: str
    rows: tuple[Row, ...]

    def row(self, name: str) -> Row:
        """Raises KeyError for a form that was not considered."""
        return {row.name: row for row in self.rows}[name]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"bundle": str(self.bundle)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BuildReport:
        """The inverse of `to_json`."""
        rows = tuple(Row(**{**row, "ratio": tuple(row["ratio"]) if row["ratio"] else None}) for row in data["rows"])
        return cls(**{**data, "bundle": Path(data["bundle"]), "rows": rows})


@dataclass(frozen=True)
class _Data:
    """Samples by purpose; a sample stands in one of them only. `labelled` where a metric can be scored."""

    calibration: Samples | None
    scoring: Samples
    golden: Samples
    labelled: bool


@dataclass(frozen=True)
class _Judged:
    candidate: Candidate
    agreement: Agreement | None
    refused: str


def build(
    source: str | nn.Module,
    samples: Samples | None = None,
    *,
    out: str | Path,
    inputs: Sequence[str] = (),
    dynamic: Sequence[str] = (),
    init: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    example: str | Path | None = None,
    task: str | None = None,
    target: str = "cpu",
    max_drop: float = 0.005,
    workload: bench.Workload = WORKLOAD,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> BuildReport:
    """Make the bundle of `source` that is best on this machine and keeps its accuracy, and prove it.

    `source` is a module, or what the command line takes (see `exporting.sources`); a trained directory brings its
    own samples. `samples` are real inputs, with labels for a metric. `max_drop` is how much of the metric
    (relative) a form may lose; without labels forms are judged by how far their outputs are off. What was not
    measured faster, or as fast and smaller, is not kept.

    Raises what export raises, VerificationError if the packed bundle does not answer as it should, ExistsError.
    """
    out = Path(out)
    refuse_existing(out, overwrite)
    if target not in TARGETS:
        raise UsageError(f"build cannot measure for target {target!r} yet", hint=f"use {', '.join(TARGETS)}")
    found = (
        resolve(
            source, inputs=inputs, dynamic=dynamic, init=init, weights=weights, seed=seed, example=example, task=task
        )
        if isinstance(source, str)
        else from_module(source, None if samples is None else next(samples.feeds(batch=2)))
    )
    data = _data(found, samples, seed)
    with tempfile.TemporaryDirectory(prefix="edgeai-build-") as name:
        directory = Path(name)
        baseline = _baseline(found, data, directory, seed, progress)
        forms = [Candidate(BASELINE, baseline)]
        forms += candidates(baseline, directory, target=target, calibration=data.calibration, progress=progress)
        with _reference(found, baseline) as reference:
            judged = [_judge(form, reference, found, data, max_drop, progress) for form in forms]
        spec = {"source": source, "inputs": list(inputs), "dynamic": list(dynamic), "init": dict(init or {})}
        eager = None if found.module is None or not isinstance(source, str) else spec
        if eager is not None:
            given = {"weights": weights, "example": example, "task": task}
            eager |= {name: str(value) for name, value in given.items() if value is not None}
        report = _measure(judged, eager, data, directory, workload, seed, progress)
        rows, choice = _choose(judged, report, eager is not None)
        progress.log(f"{found.name}: {choice}: {next(row.reason for row in rows if row.name == choice)}")
        kept = next(form for form in judged if form.candidate.name == choice)
        return _pack(kept, rows, found, data, directory, out, overwrite)


def _data(source: Source, given: Samples | None, seed: int) -> _Data:
    """Split what there is. Without any samples, generated inputs serve for everything but calibration."""
    if given is None and source.samples:
        parts = {kind: with_empty_cache(Samples.load(path), source.signature) for kind, path in source.samples.items()}
        data = _Data(parts["calibration"], parts["scoring"], parts["golden"], labelled=source.metric is not None)
        parts["calibration"].refuse_overlap(parts["scoring"], f"{source.name}: calibration and scoring")
        return data
    if given is None:
        feeds = [dict(source.example)] if source.example else []
        feeds += [probe_feeds(source.signature, seed=seed + i, count=1)[0].feed for i in range(_GOLDEN)]
        made = Samples.from_feeds(feeds)
        return _Data(None, made, made, labelled=False)
    given = with_empty_cache(given, source.signature)
    if len(given) < 3:
        raise UsageError(f"{len(given)} samples cannot be split", hint="calibration, scoring and golden need one each")
    golden = min(_GOLDEN, len(given) // 3)
    middle = golden + (len(given) - golden) // 2
    calibration, scoring = given.take(slice(golden, middle)), given.take(slice(middle, None))
    calibration.refuse_overlap(scoring, f"{source.name}: calibration and scoring")
    labelled = source.metric is not None and given.labels is not None
    return _Data(calibration, scoring, given.take(slice(0, golden)), labelled)


def _baseline(source: Source, data: _Data, directory: Path, seed: int, progress: Progress) -> Artifact:
    if source.path is not None:
        return open_artifact(source.path)
    few = data.scoring.take(slice(0, _TIMED))
    return export(source, few, out=directory / f"{BASELINE}.onnx", seed=seed, progress=progress)


@contextlib.contextmanager
def _reference(source: Source, baseline: Artifact) -> Iterator[Engine]:
    """What every form is compared with: PyTorch where there is a module, else the ONNX file that was given."""
    engine: Engine
    if source.module is None or baseline.signature is None:
        engine = load(baseline.path, ep="cpu")
    else:
        engine = EagerEngine(source.module, baseline.signature)
    # Export has seen that it repeats itself; each form asks it the same questions.
    remembered = RememberedEngine(engine)
    try:
        yield remembered
    finally:
        remembered.close()


def _judge(
    form: Candidate, reference: Engine, source: Source, data: _Data, max_drop: float, progress: Progress
) -> _Judged:
    if form.artifact is None:
        return _Judged(form, None, form.refused)
    lossy = dataclasses.replace(verification.QUANTIZED, max_drop=max_drop)
    metric = METRICS[source.metric] if data.labelled and source.metric else None
    with load(form.artifact.path, ep="cpu") as candidate:
        agreement = verification.verify(
            reference,
            candidate,
            data.scoring,
            signature=form.artifact.signature,
            tolerance=lossy if form.lossy else verification.EXACT,
            metric=metric,
            progress=progress,
        )
    good = agreement.verdict == "verified"
    if form.name == BASELINE and not good:
        raise VerificationError(f"{source.name} as exported: {agreement.summary}")
    return _Judged(form, agreement, "" if good else f"{agreement.verdict}: {agreement.findings[0].text}")


def _measure(
    judged: Sequence[_Judged],
    eager: Mapping[str, Any] | None,
    data: _Data,
    directory: Path,
    workload: bench.Workload,
    seed: int,
    progress: Progress,
) -> bench.Report:
    """Time every form that exists, the refused ones too: why they lost should be known. The baseline comes first."""
    timed = data.scoring.take(slice(0, min(_TIMED, len(data.scoring))))
    inputs = directory / "timed.npz"
    Samples(timed.rows, timed.items, None).save(inputs)
    subjects = [
        bench.Subject(
            form.candidate.name,
            "edgeai.runtime.loading:load",
            {"path": str(form.candidate.artifact.path), "ep": "cpu"},
            size_bytes=_size(form.candidate.artifact),
            preload="edgeai.ort:onnxruntime",
        )
        for form in judged
        if form.candidate.artifact is not None
    ]
    if eager is not None:
        arguments = {**eager, "threads": machine().cores}
        subjects.append(bench.Subject(TORCH, "edgeai.exporting.sources:eager", arguments))
    return bench.measure(subjects, inputs, workload, seed=seed, progress=progress)


def _choose(judged: Sequence[_Judged], report: bench.Report, has_eager: bool) -> tuple[tuple[Row, ...], str]:
    measured = {form.candidate.name: _measured(form, report) for form in judged if form.candidate.artifact is not None}
    baseline = measured.pop(BASELINE)
    choice = choose(baseline, list(measured.values()))
    rows = []
    scored = judged[0].agreement.metric if judged[0].agreement else None
    if has_eager:
        p50, ratio = _timing(report, TORCH)
        rows.append(Row(TORCH, None, scored.reference if scored else None, p50, ratio, "reference", "eager PyTorch"))
    else:
        rows.append(Row(TORCH, None, scored.reference if scored else None, None, None, "reference", "not timed"))
    for form in judged:
        name, agreement = form.candidate.name, form.agreement
        artifact = form.candidate.artifact
        p50, ratio = _timing(report, name) if artifact is not None else (None, None)
        rows.append(
            Row(
                name,
                None if artifact is None else _size(artifact),
                agreement.metric.candidate if agreement and agreement.metric else None,
                p50,
                ratio,
                agreement.verdict if agreement else "not made",
                choice.reasons.get(name, form.refused),
            )
        )
    return tuple(rows), choice.name


def _measured(form: _Judged, report: bench.Report) -> Measured:
    assert form.candidate.artifact is not None
    name, size = form.candidate.name, _size(form.candidate.artifact)
    ratio = report[name].ratio
    if ratio is None:  # the baseline itself, or too few blocks to say anything
        return Measured(name, size, refused=form.refused)
    return Measured(name, size, ratio.value, ratio.low, ratio.high, form.refused)


def _timing(report: bench.Report, name: str) -> tuple[int | None, tuple[float, float, float] | None]:
    result = report[name]
    p50 = result.statistics["p50"].value
    ratio = result.ratio
    return (None if p50 is None else int(p50)), (None if ratio is None else (ratio.value, ratio.low, ratio.high))


def _pack(
    kept: _Judged, rows: tuple[Row, ...], source: Source, data: _Data, directory: Path, out: Path, overwrite: bool
) -> BuildReport:
    """Pack what was chosen with its own answers as golden vectors, and have the packed bundle repeat them."""
    artifact, agreement = kept.candidate.artifact, kept.agreement
    assert artifact is not None
    assert agreement is not None
    with load(artifact.path, ep="cpu") as session:
        feeds = list(data.golden.take(slice(0, min(_GOLDEN, len(data.golden)))).feeds())
        expected = [session.run(feed) for feed in feeds]
        provider, settings = session.providers[0], dataclasses.asdict(session.settings)
    verdict = agreement.verdict
    report = BuildReport(source.name, out, kept.candidate.name, provider, source.metric, verdict, rows)
    golden = Golden(
        Samples.from_feeds(feeds),
        Samples.from_feeds(expected),
        _LOSSY_GOLDEN if kept.candidate.lossy else _EXACT_GOLDEN,
    )
    here = machine()
    contents: dict[str, Any] = {
        "golden": golden,
        "task": source.task,
        "extras": source.extras,
        "settings": settings,
        "results": {"build": report.to_json(), "agreement": agreement.to_json()},
        "proven_on": {"provider": provider, "cpu": here.cpu, "features": list(here.features), "cores": here.cores},
    }
    # Packed twice: the bundle gets its name only after another one of the same bytes has answered.
    trial = directory / f"trial{out.suffix}"
    pack(artifact, trial, **contents).close()
    proof = verify_bundle(trial, ep="cpu")
    if proof.verdict != "verified":
        raise VerificationError(f"{out} is not written: packed, it does not repeat its own answers: {proof.summary}")
    pack(artifact, out, **contents, overwrite=overwrite).close()
    return report


def _size(artifact: Artifact) -> int:
    names = external_files(artifact.path)
    return sum(path.stat().st_size for path in (artifact.path, *(artifact.path.parent / name for name in names)))
