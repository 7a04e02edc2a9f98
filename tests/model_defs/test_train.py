from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from edgeai.errors import DataError, ExistsError, IntegrityError, TrainingError, UsageError
from edgeai.progress import SILENT, Advance
from edgeai.samples import Samples
from model_defs import FAMILIES, NAMES, family
from model_defs.train import TrainingReport, train
from model_defs.trained import load, score

Trained = Callable[[str], tuple[Path, TrainingReport]]


@pytest.mark.parametrize("name", NAMES)
def test_training_lowers_the_loss_and_beats_knowing_nothing(name: str, trained: Trained) -> None:
    _, report = trained(name)
    for stage in report.stages:
        assert stage["history"][-1]["loss"] < stage["history"][0]["loss"], stage["name"]
    if report.metric == "perplexity":
        assert report.value < report.baselines["unigram_perplexity"]
    elif name != "bert":  # which needs more than a tiny preset to learn anything from a sentence
        assert report.value > 2 * report.baselines["majority_accuracy"]


@pytest.mark.parametrize("name", NAMES)
def test_the_directory_says_everything(name: str, trained: Trained) -> None:
    out, report = trained(name)
    training = json.loads((out / "training.json").read_text())
    assert training["value"] == report.value
    assert training["family"] == name
    assert all(len(source["sha256"]) == 64 and source["licence"] for source in training["sources"])
    task = json.loads((out / "task.json").read_text())
    assert task["task"] == FAMILIES[name].task
    tokenizer = task["preprocessing"].get("tokenizer")
    assert tokenizer is None or (out / tokenizer).is_file()
    assert not (out / "checkpoints").exists()


@pytest.mark.parametrize("name", NAMES)
def test_the_splits_fit_the_signature_and_share_nothing(name: str, trained: Trained) -> None:
    out, report = trained(name)
    dataset = FAMILIES[name].recipe("tiny").data(FAMILIES[name].config("tiny"), out)
    splits = {split: Samples.load(out / f"{split}.npz") for split in ("calibration", "scoring", "golden")}
    seen = [*dataset.train.digests(), *(digest for samples in splits.values() for digest in set(samples.digests()))]
    held_out = [digest for samples in splits.values() for digest in samples.digests()]
    assert len(held_out) == len(set(held_out))
    assert not set(held_out) & set(dataset.train.digests())
    assert len(seen) == report.samples["train"] + len(held_out)
    assert 4 <= len(splits["golden"]) <= 8
    assert len(splits["calibration"]) <= 256
    signature = FAMILIES[name].signature(FAMILIES[name].config("tiny"))
    for samples in splits.values():
        assert samples.labels is not None
        signature.check(next(samples.feeds(batch=2)))


@pytest.mark.parametrize("name", NAMES)
def test_load_gives_the_module_that_was_scored(name: str, trained: Trained) -> None:
    out, report = trained(name)
    kind, config, module = load(out)
    assert kind is FAMILIES[name]
    assert config == kind.config("tiny")
    assert not module.training
    assert score(module, Samples.load(out / "scoring.npz"), kind.metric) == pytest.approx(report.value)


def test_load_names_the_keys_that_do_not_fit(tmp_path: Path, trained: Trained) -> None:
    out, _ = trained("mlp")
    (tmp_path / "training.json").write_bytes((out / "training.json").read_bytes())
    weights = load_file(out / "weights.safetensors")
    first = next(iter(weights))
    save_file({name: tensor for name, tensor in weights.items() if name != first}, tmp_path / "weights.safetensors")
    with pytest.raises(IntegrityError, match=f"missing: {first}"):
        load(tmp_path)
    save_file({**weights, "stranger": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(IntegrityError, match="unexpected: stranger"):
        load(tmp_path)
    save_file({**weights, first: torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(IntegrityError, match=f"of another shape: {first}"):
        load(tmp_path)
    with pytest.raises(DataError, match="not a finished training"):
        load(tmp_path / "nowhere")


def test_bert_reports_the_run_without_pretraining(trained: Trained) -> None:
    _, report = trained("bert")
    assert [stage["name"] for stage in report.stages] == ["pre-training", "fine-tuning", "baseline"]
    assert report.baselines.keys() == {"majority_accuracy", "without_pretraining"}


class Interrupt:
    """Progress that presses Ctrl-C after `steps` steps of stage `label`."""

    def __init__(self, label: str, steps: int) -> None:
        self.label, self.left = label, steps

    @contextlib.contextmanager
    def task(self, label: str, total: int) -> Iterator[Advance]:
        def advance(n: int = 1, *, note: str = "") -> None:
            self.left -= n if label == self.label else 0
            if self.left < 0:
                raise KeyboardInterrupt

        yield advance

    def log(self, message: str) -> None: ...


@pytest.mark.parametrize(("name", "stage"), [("mlp", "training"), ("resnet", "training"), ("bert", "fine-tuning")])
def test_a_resumed_run_ends_like_an_uninterrupted_one(name: str, stage: str, tmp_path: Path) -> None:
    steps = 12
    whole = train(family(name), tmp_path / "whole", preset="tiny", steps=steps)
    with pytest.raises(KeyboardInterrupt):
        train(family(name), tmp_path / "cut", preset="tiny", steps=steps, progress=Interrupt(stage, 7))
    assert list((tmp_path / "cut" / "checkpoints").iterdir())
    resumed = train(family(name), tmp_path / "cut", preset="tiny", steps=steps, resume=True)
    expected, found = (load_file(tmp_path / run / "weights.safetensors") for run in ("whole", "cut"))
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert resumed.value == whole.value
    assert [stage["history"] for stage in resumed.stages] == [stage["history"] for stage in whole.stages]


def test_resuming_a_finished_run_reports_it_again(trained: Trained) -> None:
    out, report = trained("mlp")
    before = (out / "weights.safetensors").stat().st_mtime_ns
    again = train(family("mlp"), out, preset="tiny", baseline=True, resume=True)
    assert (again.value, again.key) == (report.value, report.key)
    assert (out / "weights.safetensors").stat().st_mtime_ns == before


def test_resume_refuses_another_run(tmp_path: Path, trained: Trained) -> None:
    with pytest.raises(UsageError, match="other settings"):
        train(family("mlp"), trained("mlp")[0], preset="tiny", baseline=True, seed=1, resume=True)
    with pytest.raises(KeyboardInterrupt):
        train(family("mlp"), tmp_path, preset="tiny", progress=Interrupt("training", 50))
    with pytest.raises(TrainingError, match="other settings"):
        train(family("mlp"), tmp_path, preset="tiny", seed=1, resume=True)


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    first = train(family("mlp"), tmp_path, preset="tiny", steps=2)
    with pytest.raises(ExistsError, match="overwrite"):
        train(family("mlp"), tmp_path, preset="tiny", steps=2, seed=1)
    assert json.loads((tmp_path / "training.json").read_text())["seed"] == 0
    second = train(family("mlp"), tmp_path, preset="tiny", steps=2, seed=1, overwrite=True)
    assert second.key != first.key
    assert json.loads((tmp_path / "training.json").read_text())["seed"] == 1


def test_seeds_repeat_and_leave_the_global_generator_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    for run in ("a", "b"):
        train(family("mlp"), tmp_path / run, preset="tiny", steps=5, seed=9)
    assert torch.equal(torch.rand(1), expected)
    one, two = (load_file(tmp_path / run / "weights.safetensors") for run in ("a", "b"))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_progress_counts_every_step(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []

    class Count:
        @contextlib.contextmanager
        def task(self, label: str, total: int) -> Iterator[Advance]:
            def advance(n: int = 1, *, note: str = "") -> None:
                seen.append((label, n))

            yield advance

        log = SILENT.log

    train(family("mlp"), tmp_path, preset="tiny", steps=6, progress=Count())
    assert sum(n for _, n in seen) == 6
    assert {label for label, _ in seen} == {"training"}


def test_score_needs_labels() -> None:
    with pytest.raises(DataError, match="labels"):
        score(torch.nn.Identity(), Samples.from_rows({"x": np.zeros((2, 2), np.float32)}), "accuracy")
