"""The main job for every reference family, on real data: train, build, open again without torch, answer, report."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeai.bench import Workload
from edgeai.building import TORCH, WORKLOAD, BuildReport, build
from edgeai.errors import EdgeAIError, ExistsError, UsageError
from edgeai.exporting import reference_models
from edgeai.machine import machine
from edgeai.progress import SILENT, Progress
from edgeai.samples import Samples
from edgeai.storage import atomic_text
from edgeai.tuning.candidates import BASELINE
from edgeai.tuning.space import Space

COLUMNS = (
    "family", "metric", "torch", "fp32 ONNX", "int8", "fp32 MB", "int8 MB",
    "p50 torch", "p50 fp32", "p50 int8", "int8 form", "provider", "ships",
)  # fmt: skip

SECONDS = 30.0  # of searching, for each of six families

# The device's side of the promise: these cannot be imported while a bundle answers.
_BLOCKED = ("torch", "onnx", "onnx_ir", "onnxscript", "model_defs", "tokenizers", "safetensors")


@dataclass(frozen=True)
class Answer:
    """What a packed bundle said in a process that has no torch."""

    family: str
    question: str
    answer: str


@dataclass(frozen=True)
class Demo:
    """Everything the demo leaves: one build a family, the answers, and the pages that show them."""

    builds: tuple[BuildReport, ...]
    answers: tuple[Answer, ...]
    report_json: Path
    report_html: Path


def demo(
    out: Path,
    *,
    families: Sequence[str] = (),
    preset: str = "reference",
    seed: int = 0,
    resume: bool = False,
    workload: Workload = WORKLOAD,
    seconds: float | None = SECONDS,
    space: Space | None = None,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> Demo:
    """Take each family the whole way into `out`: `trained/<family>`, `<family>.bundle`, `report.json`, `report.html`.

    Each build searches for `seconds`, as far as `space` says. With `resume`, families that an earlier run finished
    are kept and said so. Raises ExistsError if `out` has anything in it and neither `resume` nor `overwrite` is asked
    for.
    """
    known = tuple(reference_models("").FAMILIES)
    if unknown := [name for name in families if name not in known]:
        raise UsageError(f"no reference family is called {', '.join(unknown)}", hint=f"choose from {', '.join(known)}")
    if not resume and not overwrite and out.exists() and any(out.iterdir()):
        raise ExistsError(f"{out} is not empty", hint="add --resume to go on, or --overwrite to start again")
    builds = tuple(
        _family(
            name, out, preset, seed, workload, seconds, space or Space(), keep=resume and not overwrite,
            progress=progress,
        )
        for name in families or known
    )  # fmt: skip
    answers = tuple(answer for report in builds for answer in _answers(report, seed))
    data = report_data(builds, answers)
    atomic_text(out / "report.json", json.dumps(data, indent=1), overwrite=True)
    atomic_text(out / "report.html", render_html(data), overwrite=True)
    return Demo(builds, answers, out / "report.json", out / "report.html")


def _family(
    name: str, out: Path, preset: str, seed: int, workload: Workload, seconds: float | None, space: Space, *,
    keep: bool, progress: Progress,
) -> BuildReport:  # fmt: skip
    trained, target, record = out / "trained" / name, out / f"{name}.bundle", out / f"{name}.json"
    if keep and target.exists() and record.exists():
        progress.log(f"{name}: built by an earlier run, kept")
        return BuildReport.from_json(json.loads(record.read_text(encoding="utf-8")))
    if not (keep and (trained / "training.json").exists()):
        models = reference_models("")
        training = reference_models("train").train(
            models.family(name), trained, preset=preset, seed=seed, resume=keep, overwrite=not keep,
            baseline=True, progress=progress,
        )  # fmt: skip
        progress.log(f"{name}: trained, {training.metric} {training.value:.4g}")
    report = build(
        str(trained), out=target, workload=workload, seconds=seconds, space=space, overwrite=True, progress=progress
    )
    atomic_text(record, json.dumps(report.to_json()), overwrite=True)
    return report


def _answers(report: BuildReport, seed: int) -> list[Answer]:
    if report.name == "bert":
        texts = ["I love this movie!", "This is a terrible film."]
        flags = [flag for text in texts for flag in ("--text", text)]
        found = json.loads(_ask("run", str(report.bundle), *flags, "--json"))
        return [Answer("bert", text, f"{p['label']} ({p['score']:.2f})") for text, p in zip(texts, found, strict=True)]
    if report.name == "gpt":
        prompt = "In the beginning"
        options = ("--max-new-tokens", "40", "--temperature", "0.8", "--top-k", "40", "--seed", str(seed))
        text = _ask("generate", str(report.bundle), "--prompt", prompt, *options)
        return [Answer("gpt", prompt, " ".join(text.split()))]
    if report.name in ("mlp", "transformer", "cnn", "resnet"):
        trained = report.bundle.parent / "trained" / report.name / "golden.npz"
        outputs = report.bundle.parent / f".{report.name}-answer.npz"
        try:
            _ask("run", str(report.bundle), "--input", str(trained), "--out", str(outputs), "--overwrite")
            logits = next(iter(Samples.load(outputs).rows.values()))
        finally:
            outputs.unlink(missing_ok=True)
        labels = Samples.load(trained).labels
        truth = "" if labels is None else f", labelled {int(labels[0])}"
        return [Answer(report.name, f"the first golden digit{truth}", str(int(np.argmax(logits[0]))))]
    return []


def _ask(*arguments: str) -> str:
    """The command line's answer, in a process in which torch and the rest of the build tools cannot be imported."""
    blocked = f"import sys; sys.modules.update(dict.fromkeys({_BLOCKED!r}))"
    code = f"{blocked}; from edgeai.cli import main; main(sys.argv[1:])"
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        raise EdgeAIError(f"the packed bundle did not answer edgeai {' '.join(arguments)}: {result.stderr}")
    return result.stdout.strip()


def table(builds: Sequence[BuildReport]) -> list[tuple[str, ...]]:
    """One row a family, under `COLUMNS`. The int8 column is the kept int8 form, or else the best one that lost."""
    return [_table_row(report) for report in builds]


def _table_row(report: BuildReport) -> tuple[str, ...]:
    torch, fp32, int8 = report.row(TORCH), report.row(BASELINE), best_int8(report)
    rows = (torch, fp32, int8)
    return (
        report.name,
        report.metric or "-",
        *("-" if row is None or row.metric is None else f"{row.metric:.4g}" for row in rows),
        *("-" if row is None or row.size_bytes is None else f"{row.size_bytes / 1e6:.2f}" for row in rows[1:]),
        *("-" if row is None or row.p50_ns is None else f"{row.p50_ns / 1e6:.3f} ms" for row in rows),
        "-" if int8 is None else int8.name.removeprefix("int8-"),
        report.provider,
        f"{report.chosen}, {report.verdict}",
    )


def best_int8(report: BuildReport) -> Any:
    """The int8 form that ships; failing that, the fastest whose accuracy is known; failing that, any that was timed.

    By the ratio to the float file: forms are measured in several rounds, and the time of a round is its own.
    """
    measured = {
        row.name: (row.name != report.chosen, row.verdict in ("not judged", "degraded", "failed"), row.ratio[0])
        for row in report.rows
        if row.name.startswith("int8") and row.ratio is not None
    }
    return report.row(min(measured, key=lambda name: measured[name])) if measured else None


def report_data(builds: Sequence[BuildReport], answers: Sequence[Answer]) -> dict[str, Any]:
    """The report as plain data: what `report.json` holds and `report.html` draws."""
    return {
        "schema": "edgeai.demo/1",
        "machine": {"cpu": machine().cpu, "cores": machine().cores, "features": list(machine().features)},
        "versions": machine().versions,
        "builds": [report.to_json() for report in builds],
        "answers": [{"family": a.family, "question": a.question, "answer": a.answer} for a in answers],
    }


def render_html(data: dict[str, Any]) -> str:
    """One self-contained page: no network, no script."""
    from importlib.resources import files

    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = files("edgeai").joinpath("demo_report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(data)
