"""Transformer encoder over a sequence of continuous vectors (Vaswani et al., 2017, arXiv:1706.03762).

Digits are read row by row: eight steps of eight pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from edgeai.spec import Axis, Signature, TensorSpec
from model_defs.attention import Block
from model_defs.data import Dataset, digits
from model_defs.families import Family
from model_defs.recipe import Optimization, Recipe, Stage


@dataclass(frozen=True)
class TransformerConfig:
    features: int = 8
    positions: int = 16  # longest sequence
    width: int = 64
    layers: int = 2
    heads: int = 4
    hidden: int = 128
    classes: int = 10
    dropout: float = 0.1


class Transformer(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.embed = nn.Linear(config.features, config.width)
        self.position = nn.Parameter(torch.randn(config.positions, config.width) * 0.02)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.hidden, config.dropout, pre_norm=True)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.classes)

    def forward(self, x: Tensor) -> Tensor:  # (B, S, features)
        hidden = self.embed(x) + self.position[: x.size(1)]  # (B, S, W)
        for block in self.blocks:
            hidden, _ = block(hidden)
        return self.head(self.norm(hidden).mean(dim=1))  # (B, classes)


def signature(config: TransformerConfig) -> Signature:
    return Signature(
        inputs=(TensorSpec("x", "float32", ("batch", "sequence", config.features)),),
        outputs=(TensorSpec("logits", "float32", ("batch", config.classes)),),
        axes=(Axis("batch"), Axis("sequence", 1, config.positions)),
    )


def data(config: TransformerConfig, _: Path) -> Dataset:
    return digits((8, config.features))


def recipe(steps: int) -> Recipe:
    return Recipe(data, (Stage("training", Optimization(steps, learning_rate=2e-3, weight_decay=0.05)),))


FAMILY = Family(
    name="transformer",
    task="classification",
    metric="accuracy",
    presets={
        "tiny": TransformerConfig(width=16, layers=1, heads=2, hidden=32),
        "reference": TransformerConfig(),
        "base": TransformerConfig(features=80, positions=1024, width=512, layers=6, heads=8, hidden=2048),
    },
    build=Transformer,
    signature=signature,
    recipes={"tiny": recipe(100), "reference": recipe(500)},
)
