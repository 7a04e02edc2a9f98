"""Image classifiers after their papers, narrow and shallow, but with every kind of block that the paper has."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.subject import Subject, named, of_images

CLASSES = 10


def block(i: int, o: int, k: int = 3, s: int = 1, g: int = 1, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Convolution, batch norm, activation."""
    return nn.Sequential(nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(o), act())


class Residual(nn.Module):
    def __init__(self, body: nn.Module, skip: nn.Module | None = None, after: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.skip, self.after = body, skip or nn.Identity(), after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.body(x) + self.skip(x))


class Parallel(nn.Module):
    """Branches side by side, joined along the channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


def alexnet() -> Subject:
    """Krizhevsky et al. 2012, ImageNet Classification with Deep Convolutional Neural Networks."""
    features = nn.Sequential(
        nn.Conv2d(3, 16, 11, 4, 2), nn.ReLU(), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2),
        nn.Conv2d(16, 32, 5, padding=2, groups=2), nn.ReLU(), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
    )  # fmt: skip
    classifier = nn.Sequential(
        nn.Flatten(), nn.Dropout(), nn.Linear(32 * 2 * 2, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, CLASSES)
    )
    return of_images(nn.Sequential(*features, *classifier), (3, 96, 96), name="input")


def vgg() -> Subject:
    """Simonyan and Zisserman 2014, Very Deep Convolutional Networks for Large-Scale Image Recognition."""
    layers: list[nn.Module] = []
    for i, o in ((3, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(i, o, 3, padding=1), nn.ReLU(), nn.Conv2d(o, o, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    pooled = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(288, 64), nn.ReLU())
    return of_images(nn.Sequential(*pooled, nn.Dropout(), nn.Linear(64, CLASSES)), name="input")


def _bottleneck(i: int, o: int, stride: int, groups: int = 1) -> nn.Module:
    body = nn.Sequential(
        block(i, o // 4, 1), block(o // 4, o // 4, 3, stride, groups), block(o // 4, o, 1, 1, 1, nn.Identity)
    )
    return Residual(body, block(i, o, 1, stride, 1, nn.Identity) if i != o or stride > 1 else None, nn.ReLU())


def resnet() -> Subject:
    """He et al. 2015, Deep Residual Learning for Image Recognition (bottleneck blocks)."""
    stem = nn.Sequential(block(3, 16, 7, 2), nn.MaxPool2d(3, 2, 1))
    stages = [_bottleneck(16, 32, 1), _bottleneck(32, 32, 1), _bottleneck(32, 64, 2), _bottleneck(64, 64, 1)]
    return of_images(nn.Sequential(*stem, *stages, *head(64)), sides=(32, 96, 1), name="input")


def regnet() -> Subject:
    """Radosavovic et al. 2020, Designing Network Design Spaces (grouped bottlenecks with squeeze and excitation)."""

    def stage(i: int, o: int) -> nn.Module:
        body = nn.Sequential(
            block(i, o, 1), block(o, o, 3, 2, o // 8), Squeeze(o, i // 4), block(o, o, 1, act=nn.Identity)
        )
        return Residual(body, block(i, o, 1, 2, act=nn.Identity), nn.ReLU())

    layers = nn.Sequential(block(3, 16, 3, 2), stage(16, 32), stage(32, 64), *head(64))
    return of_images(layers, sides=(32, 96, 1), name="input")


class _Dense(nn.Module):
    def __init__(self, i: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(i), nn.ReLU(), nn.Conv2d(i, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth), nn.ReLU(), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


def densenet() -> Subject:
    """Huang et al. 2016, Densely Connected Convolutional Networks."""
    first = [_Dense(16 + 8 * i, 8) for i in range(3)]
    transition = [nn.BatchNorm2d(40), nn.ReLU(), nn.Conv2d(40, 20, 1, bias=False), nn.AvgPool2d(2)]
    second = [_Dense(20 + 8 * i, 8) for i in range(3)]
    layers = [nn.Conv2d(3, 16, 3, 2, 1), *first, *transition, *second, nn.BatchNorm2d(44), nn.ReLU()]
    return of_images(nn.Sequential(*layers, *head(44)), sides=(32, 96, 1), name="input")


def squeezenet() -> Subject:
    """Iandola et al. 2016, SqueezeNet."""

    def fire(i: int, squeeze: int, expand: int) -> list[nn.Module]:
        wide = Parallel(nn.Conv2d(squeeze, expand, 1), nn.Conv2d(squeeze, expand, 3, padding=1))
        return [nn.Conv2d(i, squeeze, 1), nn.ReLU(), wide, nn.ReLU()]

    pool = nn.MaxPool2d(3, 2, ceil_mode=True)  # its last window may hang over the edge
    layers = [nn.Conv2d(3, 32, 3, 2), nn.ReLU(), pool, *fire(32, 8, 16), *fire(32, 8, 24), pool, *fire(48, 12, 24)]
    last = [nn.Dropout(), nn.Conv2d(48, CLASSES, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return of_images(nn.Sequential(*layers, *last), sides=(32, 96, 1), name="input")


def inception() -> Subject:
    """Szegedy et al. 2015, Rethinking the Inception Architecture (factorized branches)."""

    def wide(i: int, o: int) -> nn.Module:
        row, column = nn.Conv2d(o, o, (1, 7), padding=(0, 3)), nn.Conv2d(o, o, (7, 1), padding=(3, 0))
        factorized = nn.Sequential(nn.Conv2d(i, o, 1), nn.ReLU(), row, nn.ReLU(), column, nn.ReLU())
        pooled = nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), block(i, o, 1))
        return Parallel(block(i, o, 1), nn.Sequential(block(i, o, 1), block(o, o, 5)), factorized, pooled)

    reduce = Parallel(nn.MaxPool2d(3, 2), nn.Sequential(block(64, 16, 1), nn.Conv2d(16, 32, 3, 2)))
    layers = nn.Sequential(block(3, 16, 3, 2), wide(16, 16), reduce, wide(96, 16), *head(64))
    return of_images(layers, sides=(32, 96, 1), name="input")


class Squeeze(nn.Module):
    """Squeeze and excitation (Hu et al. 2017)."""

    def __init__(
        self, width: int, inner: int, act: type[nn.Module] = nn.ReLU, gate: type[nn.Module] = nn.Sigmoid
    ) -> None:
        super().__init__()
        self.scale = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, inner, 1), act(), nn.Conv2d(inner, width, 1), gate()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale(x)


def mobilenet_v3() -> Subject:
    """Howard et al. 2019, Searching for MobileNetV3."""

    def inverted(i: int, wide: int, o: int, k: int, s: int, act: type[nn.Module]) -> nn.Module:
        squeeze = Squeeze(wide, wide // 4, nn.ReLU, nn.Hardsigmoid)
        body = nn.Sequential(
            block(i, wide, 1, act=act), block(wide, wide, k, s, wide, act), squeeze, block(wide, o, 1, act=nn.Identity)
        )
        return Residual(body) if i == o and s == 1 else body

    stages = [
        inverted(16, 16, 16, 3, 1, nn.ReLU),
        inverted(16, 48, 24, 3, 2, nn.ReLU),
        inverted(24, 96, 24, 5, 1, nn.Hardswish),
        inverted(24, 96, 40, 5, 2, nn.Hardswish),
    ]
    last = [
        block(40, 96, 1, act=nn.Hardswish),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(96, 64),
        nn.Hardswish(),
    ]
    layers = [block(3, 16, 3, 2, act=nn.Hardswish), *stages, *last, nn.Dropout(0.2), nn.Linear(64, CLASSES)]
    return of_images(nn.Sequential(*layers), sides=(32, 96, 1), name="input")


def efficientnet() -> Subject:
    """Tan and Le 2019, EfficientNet (MBConv with SiLU)."""

    def mbconv(i: int, o: int, k: int, s: int) -> nn.Module:
        wide = 4 * i
        squeeze = Squeeze(wide, i // 4, nn.SiLU)
        body = nn.Sequential(
            block(i, wide, 1, act=nn.SiLU),
            block(wide, wide, k, s, wide, nn.SiLU),
            squeeze,
            block(wide, o, 1, act=nn.Identity),
        )
        return Residual(body) if i == o and s == 1 else body

    stages = [mbconv(16, 24, 3, 2), mbconv(24, 24, 3, 1), mbconv(24, 40, 5, 2), mbconv(40, 40, 5, 1)]
    layers = nn.Sequential(block(3, 16, 3, 2, act=nn.SiLU), *stages, block(40, 64, 1, act=nn.SiLU), *head(64))
    return of_images(layers, sides=(32, 96, 1), name="input")


class _Shuffle(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.body = nn.Sequential(
            block(half, half, 1), block(half, half, 3, 1, half, nn.Identity), block(half, half, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, 1)
        x = torch.cat([kept, self.body(changed)], 1)
        batch, channels, height, width = x.shape
        return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)


def shufflenet_v2() -> Subject:
    """Ma et al. 2018, ShuffleNet V2."""
    layers = nn.Sequential(
        block(3, 32, 3, 2), nn.MaxPool2d(3, 2, 1), _Shuffle(32), _Shuffle(32), block(32, 64, 1), *head(64)
    )
    return of_images(layers, sides=(32, 96, 1), name="input")


class _ChannelsLast(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _ConvNextBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.grow, self.shrink = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.layer_scale = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.layer_scale * self.shrink(F.gelu(self.grow(y)))).permute(0, 3, 1, 2)


def convnext() -> Subject:
    """Liu et al. 2022, A ConvNet for the 2020s."""
    down = [_ChannelsLast(nn.LayerNorm(24, eps=1e-6)), nn.Conv2d(24, 48, 2, 2)]
    layers = [nn.Conv2d(3, 24, 4, 4), _ChannelsLast(nn.LayerNorm(24)), _ConvNextBlock(24), *down, _ConvNextBlock(48)]
    last = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(48), nn.Linear(48, CLASSES)]
    return of_images(nn.Sequential(*layers, *last), sides=(32, 96, 1), name="input")


class _Mixer(nn.Module):
    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.tokens = nn.Sequential(nn.Linear(patches, 64), nn.GELU(), nn.Linear(64, patches))
        self.channels = nn.Sequential(nn.Linear(width, 128), nn.GELU(), nn.Linear(128, width))

    def forward(self, x: Tensor) -> Tensor:  # (batch, patches, width)
        x = x + self.tokens(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norms[1](x))


class _MixerNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 48, 8, 8)
        self.body = nn.Sequential(_Mixer(36, 48), _Mixer(36, 48), nn.LayerNorm(48))
        self.head = nn.Linear(48, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


def mlp_mixer() -> Subject:
    """Tolstikhin et al. 2021, MLP-Mixer."""
    return of_images(_MixerNet())


class _Standardized(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True, correction=0)
        weight = (self.weight - mean) * torch.rsqrt(variance * self.weight[0].numel() + 1e-4)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class _NormFree(nn.Module):
    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = _Standardized(i, o, 3, stride, 1), _Standardized(o, o, 3, 1, 1)
        self.skip = nn.Sequential(
            nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False), _Standardized(i, o, 1)
        )
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        x = 1.7 * F.gelu(x)
        return self.skip(x) + 0.2 * self.gain * self.second(1.7 * F.gelu(self.first(x)))


def nfnet() -> Subject:
    """Brock et al. 2021, High-Performance Large-Scale Image Recognition Without Normalization."""
    layers = nn.Sequential(
        _Standardized(3, 16, 3, 2, 1), _NormFree(16, 32, 2), _NormFree(32, 64, 2), nn.GELU(), *head(64)
    )
    return of_images(layers, sides=(32, 96, 1), name="input")


ZOO = named(
    "torchvision style", alexnet, vgg, resnet, regnet, densenet, squeezenet, inception, mobilenet_v3, efficientnet,
    shufflenet_v2, convnext,
) + named("timm style", mlp_mixer, nfnet)  # fmt: skip
