"""Measure model files and bundles as they will run: each in its own process, all of them in turn."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgeai.bench import Report, Subject, Workload, measure
from edgeai.bundle import is_bundle, open_bundle
from edgeai.errors import UsageError
from edgeai.external import external_files
from edgeai.probing import probe_feeds
from edgeai.progress import SILENT, Progress
from edgeai.runtime import load
from edgeai.samples import Samples

_INPUTS = 8


def bench(
    models: Sequence[str | Path],
    samples: Samples | None = None,
    *,
    ep: Sequence[str] = ("auto",),
    workload: Workload | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Report:
    """Measure every model on every provider of `ep`; ratios are against the first.

    `samples` are the inputs that runs go round; without them a bundle's golden vectors, or else generated inputs.
    Raises UsageError if the models do not take the same inputs, ProviderError if a provider does not run here.
    """
    if not models:
        raise UsageError("there is nothing to measure", hint="name at least one model or bundle")
    inputs = samples or _inputs(models[0], seed)
    subjects = [_subject(model, provider, len(models), len(ep)) for model in models for provider in ep]
    for model in models:
        with load(model, ep=ep[0]) as session:
            if missing := set(session.signature.input_names) ^ set(inputs.names):
                names = ", ".join(sorted(missing))
                raise UsageError(f"{model} and the inputs do not fit: {names}", hint="compare models of one signature")
    with tempfile.TemporaryDirectory(prefix="edgeai-bench-") as directory:
        path = Path(directory) / "inputs.npz"
        inputs.save(path)
        return measure(subjects, path, workload or Workload(), seed=seed, progress=progress)


def _subject(model: str | Path, provider: str, models: int, providers: int) -> Subject:
    parts = ([str(model)] if models > 1 or providers == 1 else []) + ([provider] if providers > 1 else [])
    arguments = {"path": str(Path(model).resolve()), "ep": provider}
    return Subject(
        " ".join(parts), "edgeai.runtime.loading:load", arguments, size_bytes=_size(Path(model)),
        preload="edgeai.ort:onnxruntime",
    )  # fmt: skip


def _inputs(model: str | Path, seed: int) -> Samples:
    if is_bundle(model):
        with open_bundle(model) as bundle:
            golden = bundle.golden()
        if golden is not None:
            return golden.inputs
    with load(model) as session:
        probes = [probe_feeds(session.signature, seed=seed + i, count=1)[0] for i in range(_INPUTS)]
    return Samples.from_feeds([probe.feed for probe in probes])


def _size(model: Path) -> int:
    """Bytes on disk: of a bundle, or of a model with its external data."""
    if model.is_dir():
        return sum(file.stat().st_size for file in model.iterdir())
    names = () if is_bundle(model) else external_files(model)
    return sum(path.stat().st_size for path in (model, *(model.parent / name for name in names)))
