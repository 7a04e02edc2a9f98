"""Residual network of bottleneck blocks (He et al., 2015, arXiv:1512.03385); `base` is ResNet-50.

The stride stands on the 3x3 convolution, as in torchvision (Goyal et al., 2017, arXiv:1706.02677).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from edgeai.spec import Axis, Signature, TensorSpec
from model_defs.data import Dataset, mnist
from model_defs.families import Family
from model_defs.recipe import Optimization, Recipe, Stage, augmented, shifted

EXPANSION = 4  # a bottleneck puts out this many times its inner channels


@dataclass(frozen=True)
class ResNetConfig:
    size: int = 224  # height and width in pixels
    colours: int = 3
    stem: int = 64
    large_stem: bool = True  # 7x7 with stride 2, and pooling; else 3x3 with stride 2, for small images
    widths: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    classes: int = 1000


class ConvNorm(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        super().__init__(convolution, nn.BatchNorm2d(outputs))


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * EXPANSION
        self.reduce = ConvNorm(inputs, width, kernel=1)
        self.convolve = ConvNorm(width, width, kernel=3, stride=stride)
        self.expand = ConvNorm(width, outputs, kernel=1)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else ConvNorm(inputs, outputs, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:  # (B, inputs, h, w)
        inner = F.relu(self.convolve(F.relu(self.reduce(x))))  # (B, width, h/stride, w/stride)
        return F.relu(self.expand(inner) + self.shortcut(x))  # (B, outputs, h/stride, w/stride)


class ResNet(nn.Module):
    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        if config.large_stem:
            stem = ConvNorm(config.colours, config.stem, kernel=7, stride=2)
            self.stem = nn.Sequential(stem, nn.ReLU(), nn.MaxPool2d(kernel_size=3, stride=2, padding=1))
        else:
            self.stem = nn.Sequential(ConvNorm(config.colours, config.stem, kernel=3, stride=2), nn.ReLU())
        blocks: list[nn.Module] = []
        channels = config.stem
        for level, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            for index in range(depth):
                blocks.append(Bottleneck(channels, width, stride=2 if level > 0 and index == 0 else 1))
                channels = width * EXPANSION
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, config.classes)

    def forward(self, image: Tensor) -> Tensor:  # (B, colours, size, size)
        features = self.blocks(self.stem(image))  # (B, channels, h, w)
        return self.head(features.mean(dim=(2, 3)))  # (B, classes)


def signature(config: ResNetConfig) -> Signature:
    return Signature(
        inputs=(TensorSpec("image", "float32", ("batch", config.colours, config.size, config.size)),),
        outputs=(TensorSpec("logits", "float32", ("batch", config.classes)),),
        axes=(Axis("batch"),),
    )


def data(config: ResNetConfig, _: Path) -> Dataset:
    return mnist(config.size, config.colours)


def recipe(steps: int) -> Recipe:
    settings = Optimization(steps, learning_rate=4e-3, weight_decay=0.05)
    return Recipe(data, (Stage("training", settings, augmented(shifted)),))


FAMILY = Family(
    name="resnet",
    task="image-classification",
    metric="accuracy",
    presets={
        "tiny": ResNetConfig(28, 1, 4, True, widths=(4, 8), depths=(1, 1), classes=10),
        "reference": ResNetConfig(28, 1, 16, False, widths=(16, 32, 64), depths=(1, 2, 1), classes=10),
        "base": ResNetConfig(),
    },
    build=ResNet,
    signature=signature,
    recipes={"tiny": recipe(60), "reference": recipe(400)},
)
