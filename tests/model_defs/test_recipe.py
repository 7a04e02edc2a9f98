from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from edgeai.errors import TrainingError
from edgeai.progress import SILENT
from edgeai.samples import Samples
from model_defs.loop import batch_indices, run_stage
from model_defs.recipe import LOSSES, Optimization, Stage, shifted

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")


def rows() -> tuple[Samples, Samples]:
    """Two classes that a line separates."""
    x = np.random.default_rng(0).normal(size=(96, 4)).astype(np.float32)
    samples = Samples.from_rows({"input": x}, (x[:, 0] > 0).astype(np.int64))
    return samples.take(slice(64)), samples.take(slice(64, None))


def run(path: Path, optimization: Optimization) -> tuple[torch.nn.Module, float, float]:
    torch.manual_seed(0)
    module = torch.nn.Linear(4, 2)
    stage = Stage("training", optimization)
    position = run_stage(stage, module, rows(), path=path, key="k", seed=0, progress=SILENT)
    return module, position.history[0]["held_out_loss"], position.history[-1]["held_out_loss"]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_lowers_every_loss_on_held_out_rows(optimizer: str, loss: str, tmp_path: Path) -> None:
    settings = Optimization(40, 16, optimizer, learning_rate=0.05, loss=loss)  # type: ignore[arg-type]
    _, first, last = run(tmp_path / "checkpoint", settings)
    assert last < 0.9 * first


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_resumes_exactly(optimizer: str, tmp_path: Path) -> None:
    settings = Optimization(16, 16, optimizer)  # type: ignore[arg-type]
    whole, *_ = run(tmp_path / "whole", settings)

    class StopError(Exception): ...

    calls = iter(range(100))

    def objective(module, inputs, labels, loss, generator):  # type: ignore[no-untyped-def]
        if module.training and next(calls) == 9:
            raise StopError
        return loss(module(**inputs), labels)

    stage = Stage("training", settings, objective)
    for _ in range(2):
        torch.manual_seed(0)
        module = torch.nn.Linear(4, 2)
        try:
            run_stage(stage, module, rows(), path=tmp_path / "cut", key="k", seed=0, progress=SILENT)
        except StopError:
            continue
    assert next(calls) > 10  # it did stop, and did go on
    assert next(calls) < 20  # and not from the beginning
    assert torch.equal(module.weight, whole.weight)


def test_the_learning_rate_warms_up_and_falls() -> None:
    settings = Optimization(100, learning_rate=1.0, warmup=0.1)
    rates = [settings.rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1.0)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[55] == pytest.approx(0.5, abs=0.02)
    assert rates[-1] < 0.01


def test_weight_decay_spares_biases() -> None:
    module = torch.nn.Linear(3, 2)
    decayed, spared = Optimization(1, weight_decay=0.3).optimizer_for(module).param_groups
    assert decayed["weight_decay"] == 0.3
    assert decayed["params"] == [module.weight]
    assert spared["weight_decay"] == 0
    assert spared["params"] == [module.bias]


def test_gradients_are_clipped(tmp_path: Path) -> None:
    settings = Optimization(1, 64, "sgd", learning_rate=1.0, momentum=0.0, weight_decay=0.0, clip_norm=1e-4, warmup=0.0)
    torch.manual_seed(0)
    before = torch.nn.Linear(4, 2).weight
    after, *_ = run(tmp_path / "checkpoint", settings)
    assert 0 < (after.weight - before).norm() <= 1.01e-4


def test_losses_ignore_marked_labels() -> None:
    logits = torch.randn(2, 3, 5)
    labels = torch.tensor([[1, 2, -100], [0, -100, 4]])
    kept = labels != -100
    assert torch.allclose(LOSSES["cross-entropy"](logits, labels), F.cross_entropy(logits[kept], labels[kept]))
    expected = (logits[kept] - F.one_hot(labels[kept], 5)).pow(2).mean()
    assert torch.allclose(LOSSES["mse"](logits, labels), expected)


def test_an_epoch_sees_every_row_once() -> None:
    epochs = [torch.cat([batch_indices(12, 4, 0, step) for step in range(start, start + 3)]) for start in (0, 3)]
    assert all(sorted(epoch.tolist()) == list(range(12)) for epoch in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    stage = Stage("training", Optimization(8), lambda module, *_: module.weight.sum() * float("nan"))
    with pytest.raises(TrainingError, match="nan"):
        run_stage(stage, torch.nn.Linear(4, 2), rows(), path=tmp_path / "c", key="k", seed=0, progress=SILENT)
    assert not (tmp_path / "c").exists()


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(b"no safetensors")
    with pytest.raises(TrainingError, match="cannot be read"):
        run(tmp_path / "c", Optimization(2))


def test_configurations_do_not_change() -> None:
    with pytest.raises(AttributeError):
        Optimization(1).steps = 2  # type: ignore[misc]
    assert replace(Optimization(1), steps=2).steps == 2


def test_shifting_moves_an_image_by_at_most_two_pixels() -> None:
    image = torch.zeros(1, 1, 9, 9)
    image[0, 0, 4, 4] = 1
    moves = set()
    for seed in range(60):
        moved = shifted({"image": image}, torch.Generator().manual_seed(seed))["image"]
        assert moved.shape == image.shape
        assert moved.sum() == 1
        moves.add(tuple(moved[0, 0].nonzero()[0].tolist()))
    assert {row for row, _ in moves} == {column for _, column in moves} == {2, 3, 4, 5, 6}
