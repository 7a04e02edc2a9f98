"""How a family is trained: the settings of an optimizer, the stages that use them, the data they run over.

A recipe is a value. `train.py` holds the one loop that carries it out, the same for every family.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeai.samples import Samples
from model_defs.data import Dataset

Inputs = Mapping[str, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
Augment = Callable[[Inputs, torch.Generator], Inputs]
Objective = Callable[[nn.Module, Inputs, Tensor, Loss, torch.Generator], Tensor]

IGNORED_LABEL = -100


@dataclass(frozen=True)
class Optimization:
    """Settings of one stage. The learning rate warms up linearly, then falls to zero along a cosine."""

    steps: int
    batch_size: int = 64
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = "adamw"
    learning_rate: float = 1e-3
    momentum: float = 0.9  # of sgd and rmsprop
    weight_decay: float = 0.01  # not applied to biases and norms
    warmup: float = 0.1  # fraction of the steps
    clip_norm: float = 1.0  # largest norm of the whole gradient
    loss: Literal["cross-entropy", "mse"] = "cross-entropy"

    def rate_at(self, step: int) -> float:
        """Learning rate of `step`, counted from 0."""
        warmup = max(1, round(self.warmup * self.steps))
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        done = (step - warmup) / max(1, self.steps - warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def optimizer_for(self, module: nn.Module) -> torch.optim.Optimizer:
        """A fresh optimizer over the parameters of `module`."""
        parameters = list(module.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        match self.optimizer:
            case "sgd":
                return torch.optim.SGD(groups, lr=self.learning_rate, momentum=self.momentum)
            case "adam":
                return torch.optim.Adam(groups, lr=self.learning_rate)
            case "adamw":
                return torch.optim.AdamW(groups, lr=self.learning_rate)
            case "rmsprop":
                return torch.optim.RMSprop(groups, lr=self.learning_rate, momentum=self.momentum)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy; logits (..., C), labels (...) int64 where -100 is ignored."""
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED_LABEL)


def mean_squared_error(logits: Tensor, labels: Tensor) -> Tensor:
    """Squared distance to the one-hot label (Hui and Belkin, 2021, arXiv:2006.07322)."""
    kept = labels != IGNORED_LABEL
    return F.mse_loss(logits[kept], F.one_hot(labels[kept], logits.shape[-1]).to(logits.dtype))


LOSSES: Mapping[str, Loss] = {"cross-entropy": cross_entropy, "mse": mean_squared_error}


def logits_of(outputs: Tensor | tuple[Any, ...]) -> Tensor:
    """The logits of a module's answer: every family returns them alone or first."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


def supervised(module: nn.Module, inputs: Inputs, labels: Tensor, loss: Loss, _: torch.Generator) -> Tensor:
    """Learn labels from inputs."""
    return loss(logits_of(module(**inputs)), labels)


def augmented(augment: Augment) -> Objective:
    """Learn labels from inputs that are varied while training."""

    def objective(module: nn.Module, inputs: Inputs, labels: Tensor, loss: Loss, generator: torch.Generator) -> Tensor:
        varied = augment(inputs, generator) if module.training else inputs
        return supervised(module, varied, labels, loss, generator)

    return objective


def shifted(inputs: Inputs, generator: torch.Generator) -> Inputs:
    """Move a batch of images (B,C,H,W) by up to two pixels each way; the border is repeated."""
    image = inputs["image"]
    height, width = image.shape[-2:]
    top, left = torch.randint(0, 5, (2,), generator=generator).tolist()
    padded = F.pad(image, (2, 2, 2, 2), mode="replicate")
    return {**inputs, "image": padded[..., top : top + height, left : left + width]}


def training_rows(dataset: Dataset) -> tuple[Samples, Samples]:
    return dataset.train, dataset.calibration


@dataclass(frozen=True)
class Stage:
    """One run of the training loop: `wrap` puts the deployed module into what this stage trains."""

    name: str
    optimization: Optimization
    objective: Objective = supervised
    rows: Callable[[Dataset], tuple[Samples, Samples]] = training_rows  # to learn from, and held out
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module


@dataclass(frozen=True)
class Recipe:
    """`data(config, directory)` prepares the data (a tokenizer goes to `directory`); `stages` run in order.

    With more than one stage, all before the last are pre-training: the baseline run leaves them out.
    """

    data: Callable[[Any, Path], Dataset]
    stages: tuple[Stage, ...]
