"""Multi-layer perceptron (Rumelhart, Hinton and Williams, 1986): handwritten digits from 64 pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from edgeai.spec import Axis, Signature, TensorSpec
from model_defs.data import Dataset, digits
from model_defs.families import Family
from model_defs.recipe import Optimization, Recipe, Stage

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}


@dataclass(frozen=True)
class MlpConfig:
    features: int = 64
    hidden: tuple[int, ...] = (128, 64)
    classes: int = 10
    activation: Literal["relu", "gelu"] = "gelu"
    batch_norm: bool = True
    dropout: float = 0.1


class Mlp(nn.Module):
    def __init__(self, config: MlpConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = config.features
        for hidden in config.hidden:
            layers.append(nn.Linear(width, hidden))
            if config.batch_norm:
                layers.append(nn.BatchNorm1d(hidden))
            layers += [ACTIVATIONS[config.activation](), nn.Dropout(config.dropout)]
            width = hidden
        self.layers = nn.Sequential(*layers, nn.Linear(width, config.classes))

    def forward(self, x: Tensor) -> Tensor:  # (B, features)
        return self.layers(x)  # (B, classes)


def signature(config: MlpConfig) -> Signature:
    return Signature(
        inputs=(TensorSpec("x", "float32", ("batch", config.features)),),
        outputs=(TensorSpec("logits", "float32", ("batch", config.classes)),),
        axes=(Axis("batch"),),
    )


def data(config: MlpConfig, _: Path) -> Dataset:
    return digits((config.features,))


FAMILY = Family(
    name="mlp",
    task="classification",
    metric="accuracy",
    presets={
        "tiny": MlpConfig(hidden=(32,)),
        "reference": MlpConfig(),
        "base": MlpConfig(features=784, hidden=(2048, 2048), activation="relu"),
    },
    build=Mlp,
    signature=signature,
    recipes={
        "tiny": Recipe(data, (Stage("training", Optimization(steps=100, learning_rate=3e-3)),)),
        "reference": Recipe(data, (Stage("training", Optimization(steps=400, learning_rate=3e-3)),)),
    },
)
