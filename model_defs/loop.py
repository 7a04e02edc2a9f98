"""The one training loop: a stage, a module, rows; interrupted and continued at will."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgeai.errors import TrainingError
from edgeai.progress import Progress
from edgeai.samples import Samples
from model_defs import checkpoint
from model_defs.checkpoint import Position
from model_defs.recipe import LOSSES, Stage

CHECKPOINTS = 8  # evenly spaced over a stage, with one evaluation on held-out rows each


def run_stage(
    stage: Stage,
    module: nn.Module,
    rows: tuple[Samples, Samples],
    *,
    path: Path,
    key: str,
    seed: int,
    progress: Progress,
) -> Position:
    """Train `module` in place on `rows[0]`, measuring on `rows[1]`, and return where it ended.

    The state is kept at `path`; if a checkpoint with this `key` is there, training continues from it and ends
    with the same weights as an uninterrupted run. Raises TrainingError if the loss is no longer a number.
    """
    settings, loss = stage.optimization, LOSSES[stage.optimization.loss]
    train, held_out = (tensors(samples) for samples in rows)
    optimizer = settings.optimizer_for(module)
    position = checkpoint.restore(path, module, optimizer, key) if path.exists() else Position(key)
    interval = max(1, settings.steps // CHECKPOINTS)
    started = time.perf_counter() - position.seconds
    running: list[float] = []

    def objective(batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        return stage.objective(module, inputs, batch["labels"], loss, generator)

    with progress.task(stage.name, settings.steps) as advance, torch.random.fork_rng(devices=[]):
        advance(position.step)
        for step in range(position.step, settings.steps):
            module.train()
            generator = seeded(seed, step)
            chosen = batch_indices(len(rows[0]), settings.batch_size, seed, step)
            for group in optimizer.param_groups:
                group["lr"] = settings.rate_at(step)
            value = objective({name: tensor[chosen] for name, tensor in train.items()}, generator)
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(module.parameters(), settings.clip_norm)
            optimizer.step()
            running.append(value.item())
            advance(note=f"loss {running[-1]:.3f}")
            if (step + 1) % interval == 0 or step + 1 == settings.steps:
                if not np.isfinite(running[-1]):
                    raise TrainingError(f"{stage.name}: the loss is {running[-1]} at step {step + 1}")
                module.eval()
                with torch.no_grad():
                    measured = objective(held_out, seeded(seed, 0)).item()
                row = {"step": step + 1, "loss": float(np.mean(running)), "held_out_loss": measured}
                position = replace(
                    position,
                    step=step + 1,
                    seconds=time.perf_counter() - started,
                    history=(*position.history, row),
                )
                checkpoint.save(path, module, optimizer, position)
                running.clear()
    module.eval()
    return position


def tensors(samples: Samples) -> dict[str, Tensor]:
    if samples.labels is None:
        raise TrainingError("training needs labels")
    return {name: torch.from_numpy(array) for name, array in {**samples.rows, "labels": samples.labels}.items()}


def seeded(seed: int, step: int) -> torch.Generator:
    """Seed dropout, and return the generator of everything else random in this step."""
    mixed = int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> 1)
    torch.manual_seed(mixed)
    return torch.Generator().manual_seed(mixed)


def batch_indices(count: int, batch_size: int, seed: int, step: int) -> Tensor:
    """The rows of a step: each epoch goes through a new permutation; a last partial batch is left out."""
    batch_size = min(batch_size, count)
    epoch, index = divmod(step, count // batch_size)
    order = np.random.default_rng((seed, epoch)).permutation(count)
    return torch.from_numpy(order[index * batch_size : (index + 1) * batch_size])
