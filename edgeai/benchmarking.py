"""Measure model files and bundles as they will run: each in its own process, all of them in turn."""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeai.bench import Report, Subject, Workload, measure
from edgeai.bench.limits import Profiler, roofline
from edgeai.bundle import is_bundle, open_bundle
from edgeai.errors import BenchmarkError, EdgeAIError, UsageError
from edgeai.external import external_files
from edgeai.probing import axis_names, probe_feeds, shape_plans, size_of
from edgeai.progress import SILENT, Progress
from edgeai.runtime import load
from edgeai.samples import Samples
from edgeai.spec import Signature

_INPUTS = 8


def bench(
    models: Sequence[str | Path],
    samples: Samples | None = None,
    *,
    ep: Sequence[str] = ("auto",),
    workload: Workload | None = None,
    batches: Sequence[int] = (),
    axes: Mapping[str, Sequence[int]] | None = None,
    profiler: Profiler | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Report:
    """Measure every model on every provider of `ep`; ratios are against the first.

    `samples` are the inputs that runs go round; without them a bundle's golden vectors, or else generated inputs.
    Several `batches`, or several sizes in `axes` (name of a symbolic axis to sizes; inputs are then generated), make a
    sweep: every model at every point, and ratios within each. `profiler` adds rooflines, of what ran on the CPU.
    Raises UsageError if the models do not take the same inputs or a point does not fit them, ProviderError if a
    provider does not run here.
    """
    if not models:
        raise UsageError("there is nothing to measure", hint="name at least one model or bundle")
    if samples and axes:
        raise UsageError("sizes of axes are for generated inputs", hint="leave the samples out, or the axes")
    plan = workload or Workload()
    with tempfile.TemporaryDirectory(prefix="edgeai-bench-") as directory:
        given = samples or (None if axes else _golden(models[0]))
        with load(models[0], ep=ep[0]) as session:
            points = _points(session.signature, given, batches or (plan.batch,), axes or {}, seed, Path(directory))
        _refuse_other_inputs(models, ep[0], points[0].inputs)
        subjects = [
            _subject(model, provider, point, named=_named(models, ep, points))
            for point in points
            for model in models
            for provider in ep
        ]
        report = measure(subjects, points[0].path, plan, thorough=True, seed=seed, progress=progress)
        if profiler and not report.interrupted:
            report = _with_rooflines(report, points, profiler, progress)
    if given is None:
        return dataclasses.replace(report, warnings=(*report.warnings, *_generated_note(points)))
    return report


def _with_rooflines(report: Report, points: Sequence[_Point], profiler: Profiler, progress: Progress) -> Report:
    of_point = {point.name: point for point in points}
    results, warnings = [], [*report.warnings]
    with progress.task("profiling", len(report.subjects)) as advance:
        for result in report.subjects:
            median = result.statistics["p50"].value
            try:
                if median is None:
                    raise BenchmarkError(result.statistics["p50"].reason)
                if result.ran.providers[:1] != ("cpu",):
                    raise BenchmarkError("the ceilings that are measured are the CPU's")
                if report.workload.scenario == "server" or report.workload.concurrency > 1:
                    raise BenchmarkError("latencies of runs that overlap or wait say nothing about the machine's limit")
                feed = next(of_point[result.point].inputs.feeds(result.batch))
                nodes = profiler.nodes(result.arguments["path"], feed)
                latency = median / report.workload.inferences
                result = dataclasses.replace(result, roofline=roofline(nodes, profiler.ceilings, latency_ns=latency))
            except EdgeAIError as error:
                warnings.append(f"{result.name}: no roofline: {error.message}")
            results.append(result)
            advance(note=result.name)
    known = any(result.roofline for result in results)
    ceilings = profiler.ceilings if known else None
    return dataclasses.replace(report, subjects=tuple(results), warnings=tuple(warnings), ceilings=ceilings)


@dataclass(frozen=True)
class _Point:
    """One place of a sweep: the inputs on disk, how many rows make a batch, and its name ("" if it is the only one)."""

    name: str
    inputs: Samples
    path: Path
    batch: int
    sizes: Mapping[str, int]


def _points(
    signature: Signature,
    given: Samples | None,
    batches: Sequence[int],
    axes: Mapping[str, Sequence[int]],
    seed: int,
    directory: Path,
) -> list[_Point]:
    if unknown := [name for name in axes if name not in axis_names(signature)]:
        known = ", ".join(axis_names(signature)) or "none"
        raise UsageError(f"the model has no symbolic axis {', '.join(unknown)}", hint=f"its axes: {known}")
    points = []
    for index, (batch, *sizes) in enumerate(itertools.product(batches, *axes.values())):
        chosen = dict(zip(axes, sizes, strict=True))
        inputs, used, rows = (given, {}, batch) if given else _generated(signature, batch, chosen, seed)
        path = directory / f"{index}.npz"
        inputs.save(path)
        labels = ([f"batch={batch}"] if len(batches) > 1 else []) + [
            f"{name}={size}" for name, size in chosen.items() if len(axes[name]) > 1
        ]
        points.append(_Point(" ".join(labels), inputs, path, rows, used))
    return points


def _generated(
    signature: Signature, batch: int, sizes: Mapping[str, int], seed: int
) -> tuple[Samples, Mapping[str, int], int]:
    """Inputs at one shape, the size of every symbolic axis, and the rows of a batch.

    Rows where axis 0 of every input is one symbolic axis, which is then the batch; otherwise complete feeds.
    """
    first = {spec.shape[0] if spec.shape else None for spec in signature.inputs}
    axis = first.pop() if len(first) == 1 else None
    used = {**shape_plans(signature)[0], **sizes}
    if batch != 1 and (not isinstance(axis, str) or axis in sizes):
        why = f"--axis {axis} says the same" if axis in sizes else "this model's inputs have no common batch axis"
        raise UsageError(f"batch {batch}: {why}", hint="leave batch at 1")
    if isinstance(axis, str):
        count = sizes.get(axis, batch)
        rows = probe_feeds(_fixed(signature, {**used, axis: count * _INPUTS}), seed=seed, count=1)[0].feed
        return Samples.from_rows(rows), {**used, axis: count}, count
    fixed = _fixed(signature, used)
    feeds = [probe_feeds(fixed, seed=seed + i, count=1)[0].feed for i in range(_INPUTS)]
    return Samples.from_feeds(feeds), used, 1


def _fixed(signature: Signature, sizes: Mapping[str, int]) -> Signature:
    inputs = (
        dataclasses.replace(spec, shape=tuple(size_of(axis, sizes) for axis in spec.shape)) for spec in signature.inputs
    )
    return Signature(tuple(inputs), signature.outputs)


def _generated_note(points: Sequence[_Point]) -> list[str]:
    if not points[0].sizes:
        return ["the inputs were generated, not samples"]
    shapes = " and ".join(" ".join(f"{name}={size}" for name, size in point.sizes.items()) for point in points)
    return [f"the inputs were generated ({shapes}); give samples, or sizes with --axis"]


def _refuse_other_inputs(models: Sequence[str | Path], ep: str, inputs: Samples) -> None:
    for model in models:
        with load(model, ep=ep) as session:
            if missing := set(session.signature.input_names) ^ set(inputs.names):
                names = ", ".join(sorted(missing))
                raise UsageError(f"{model} and the inputs do not fit: {names}", hint="compare models of one signature")


def _named(models: Sequence[object], ep: Sequence[str], points: Sequence[object]) -> tuple[bool, bool]:
    """Do names tell the model, and the provider? What all subjects share is left out."""
    return len(models) > 1 or (len(ep) == 1 and len(points) == 1), len(ep) > 1


def _subject(model: str | Path, provider: str, point: _Point, *, named: tuple[bool, bool]) -> Subject:
    parts = ([str(model)] if named[0] else []) + ([provider] if named[1] else []) + ([point.name] if point.name else [])
    path = Path(model).resolve()
    return Subject(
        " ".join(parts),
        "edgeai.runtime.loading:load",
        {"path": str(path), "ep": provider},
        size_bytes=sum(file.stat().st_size for file in _files(path)),
        preload="edgeai.ort:onnxruntime",
        files=tuple(map(str, _files(path))),
        batch=point.batch,
        samples_path=str(point.path),
        point=point.name,
    )


def _golden(model: str | Path) -> Samples | None:
    if not is_bundle(model):
        return None
    with open_bundle(model) as bundle:
        golden = bundle.golden()
    return None if golden is None else golden.inputs


def _files(model: Path) -> list[Path]:
    """All that is on the disk: of a bundle, or of a model with its external data."""
    if model.is_dir():
        return [file for file in model.iterdir() if file.is_file()]
    names = () if is_bundle(model) else external_files(model)
    return [model, *(model.parent / name for name in names)]
