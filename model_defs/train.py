"""From a family to a directory with everything that export, quantization and scoring need.

weights.safetensors   the deployed module
training.json         what was trained on what, how, and how well
task.json             what a device must know: task, labels, preprocessing
tokenizer.json        of the language families
calibration.npz  scoring.npz  golden.npz
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from edgeai.errors import UsageError
from edgeai.progress import SILENT, Progress
from edgeai.storage import atomic_file, atomic_text, refuse_existing
from model_defs.data import Dataset
from model_defs.families import Family
from model_defs.loop import run_stage
from model_defs.recipe import Recipe, Stage
from model_defs.trained import TRAINING, WEIGHTS, score

TASK, TOKENIZER = "task.json", "tokenizer.json"
SPLITS = ("calibration", "scoring", "golden")
CHECKPOINTS = "checkpoints"
OUTPUTS = (WEIGHTS, TRAINING, TASK, TOKENIZER, *(f"{split}.npz" for split in SPLITS), CHECKPOINTS)


@dataclass(frozen=True)
class TrainingReport:
    """What `training.json` holds. `value` is `metric` on the scoring split; so are the `baselines`."""

    family: str
    preset: str
    config: Mapping[str, Any]
    seed: int
    metric: str
    value: float
    baselines: Mapping[str, float]
    seconds: float
    parameters: int
    samples: Mapping[str, int]
    stages: tuple[Mapping[str, Any], ...]
    sources: tuple[Mapping[str, Any], ...]
    key: str


def train(
    family: Family,
    out: Path,
    *,
    preset: str = "reference",
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = SILENT,
    steps: int | None = None,
    baseline: bool = False,
) -> TrainingReport:
    """Train a preset of `family` into the directory `out`.

    `resume` continues an interrupted run and ends with the weights that run would have had; `overwrite` starts
    again. `steps` caps each stage. `baseline` also trains the last stage of a pre-trained family without its
    pre-training, and reports that beside it. Raises UsageError if `out` is in use and neither was asked for.
    """
    recipe, config = shortened(family.recipe(preset), steps), family.config(preset)
    key = run_key(family, preset, recipe, seed, baseline)
    if resume and overwrite:
        raise UsageError("resume and overwrite contradict each other")
    if resume and (out / TRAINING).exists():
        return finished(out, key)
    for name in OUTPUTS:
        if overwrite:
            remove(out / name)
        elif not resume:
            refuse_existing(out / name, overwrite=False)
    out.mkdir(parents=True, exist_ok=True)

    dataset = recipe.data(config, out)
    module, stages = fit(family, config, recipe.stages, dataset, out, key, seed, progress)
    baselines = dict(dataset.baselines)
    if baseline and len(recipe.stages) > 1:
        plain = replace(recipe.stages[-1], name="baseline")
        untrained, more = fit(family, config, (plain,), dataset, out, key, seed, progress)
        baselines["without_pretraining"] = score(untrained, dataset.scoring, family.metric)
        stages += more
    report = TrainingReport(
        family=family.name,
        preset=preset,
        config=asdict(config),
        seed=seed,
        metric=family.metric,
        value=score(module, dataset.scoring, family.metric),
        baselines=baselines,
        seconds=sum(stage["seconds"] for stage in stages),
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        samples={name: len(getattr(dataset, name)) for name in ("train", *SPLITS)},
        stages=tuple(stages),
        sources=tuple(asdict(source) for source in dataset.sources),
        key=key,
    )
    write(out, family, module, dataset, report)
    return report


def fit(
    family: Family,
    config: Any,
    stages: tuple[Stage, ...],
    dataset: Dataset,
    out: Path,
    key: str,
    seed: int,
    progress: Progress,
) -> tuple[nn.Module, list[dict[str, Any]]]:
    """A fresh module, taken through `stages`; and what happened in each."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = family.build(config)
        reached = []
        for stage in stages:
            position = run_stage(
                stage,
                stage.wrap(module),
                stage.rows(dataset),
                path=out / CHECKPOINTS / f"{stage.name}.safetensors",
                key=key,
                seed=seed,
                progress=progress,
            )
            reached.append(
                {
                    "name": stage.name,
                    "optimization": asdict(stage.optimization),
                    "seconds": round(position.seconds, 2),
                    "history": list(position.history),
                }
            )
    return module.eval(), reached


def write(out: Path, family: Family, module: nn.Module, dataset: Dataset, report: TrainingReport) -> None:
    """Leave the results; `training.json` comes last, so its presence says that all are there."""
    for name in SPLITS:
        getattr(dataset, name).save(out / f"{name}.npz", overwrite=True)
    task = {"task": family.task, "labels": list(dataset.labels), "preprocessing": dict(dataset.preprocessing)}
    atomic_text(out / TASK, json.dumps(task, indent=2) + "\n", overwrite=True)
    with atomic_file(out / WEIGHTS, overwrite=True) as temporary:
        save_file(module.state_dict(), temporary, {"family": family.name})
    atomic_text(out / TRAINING, json.dumps(asdict(report), indent=2) + "\n", overwrite=True)
    shutil.rmtree(out / CHECKPOINTS)


def finished(out: Path, key: str) -> TrainingReport:
    """The report of a run that needs no resuming."""
    report = TrainingReport(**json.loads((out / TRAINING).read_text(encoding="utf-8")))
    if report.key != key:
        raise UsageError(f"{out} holds a run with other settings", hint="use --overwrite to start again")
    return report


def shortened(recipe: Recipe, steps: int | None) -> Recipe:
    if steps is None:
        return recipe
    stages = (
        replace(stage, optimization=replace(stage.optimization, steps=min(steps, stage.optimization.steps)))
        for stage in recipe.stages
    )
    return replace(recipe, stages=tuple(stages))


def run_key(family: Family, preset: str, recipe: Recipe, seed: int, baseline: bool) -> str:
    """What must be equal for a checkpoint to be continued."""
    settings = [(stage.name, asdict(stage.optimization)) for stage in recipe.stages]
    run = [family.name, preset, asdict(family.config(preset)), settings, seed, baseline]
    return hashlib.sha256(json.dumps(run).encode()).hexdigest()


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
