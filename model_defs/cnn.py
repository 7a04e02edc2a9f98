"""Convolutional network in the manner of LeNet-5 (LeCun et al., 1998): digits from small colour images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from edgeai.spec import Axis, Signature, TensorSpec
from model_defs.data import Dataset, mnist
from model_defs.families import Family
from model_defs.recipe import Optimization, Recipe, Stage, augmented, shifted


@dataclass(frozen=True)
class CnnConfig:
    size: int = 24  # height and width in pixels, a multiple of 4
    channels: tuple[int, int, int] = (3, 32, 64)
    hidden: tuple[int, int] = (120, 84)
    classes: int = 10
    dropout: float = 0.2


class Cnn(nn.Module):
    def __init__(self, config: CnnConfig) -> None:
        super().__init__()
        colours, first, second = config.channels
        wide, narrow = config.hidden
        self.features = nn.Sequential(
            nn.Conv2d(colours, first, kernel_size=3, padding=1),  # (B, first, size, size)
            nn.ReLU(),
            nn.MaxPool2d(2),  # (B, first, size/2, size/2)
            nn.Conv2d(first, second, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),  # (B, second, size/4, size/4)
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(second * (config.size // 4) ** 2, wide),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(wide, narrow),
            nn.ReLU(),
            nn.Linear(narrow, config.classes),
        )

        for part in self.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:  # (B, colours, size, size)
        return self.classifier(self.features(image))  # (B, classes)


def signature(config: CnnConfig) -> Signature:
    return Signature(
        inputs=(TensorSpec("image", "float32", ("batch", config.channels[0], config.size, config.size)),),
        outputs=(TensorSpec("logits", "float32", ("batch", config.classes)),),
        axes=(Axis("batch"),),
    )


def data(config: CnnConfig, _: Path) -> Dataset:
    return mnist(config.size, config.channels[0])


def recipe(steps: int) -> Recipe:
    return Recipe(data, (Stage("training", Optimization(steps, learning_rate=2e-3), augmented(shifted)),))


FAMILY = Family(
    name="cnn",
    task="image-classification",
    metric="accuracy",
    presets={
        "tiny": CnnConfig(channels=(3, 4, 8), hidden=(32, 16)),
        "reference": CnnConfig(),
        "base": CnnConfig(size=96, channels=(3, 64, 128), hidden=(512, 256)),
    },
    build=Cnn,
    signature=signature,
    recipes={"tiny": recipe(100), "reference": recipe(400)},
)
