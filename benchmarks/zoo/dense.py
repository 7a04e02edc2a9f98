"""Networks whose answer has the shape of an image: segmentation, detection, restoration, generation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.subject import BATCH, Subject, awake, named, normal, of_images
from zoo.vision import CLASSES, Residual, block


class _UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Sequential(block(3, 16), block(16, 16)), nn.Sequential(block(16, 32), block(32, 32))
        self.bottom = nn.Sequential(block(32, 64), block(64, 64))
        self.up2, self.up1 = nn.ConvTranspose2d(64, 32, 2, 2), nn.ConvTranspose2d(32, 16, 2, 2)
        self.join2, self.join1 = block(64, 32), block(32, 16)
        self.head = nn.Conv2d(16, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.bottom(F.max_pool2d(b, 2))
        b = self.join2(torch.cat([self.up2(c), b], 1))
        return self.head(self.join1(torch.cat([self.up1(b), a], 1)))


def unet() -> Subject:
    """Ronneberger et al. 2015, U-Net."""
    return of_images(_UNet(), sides=(32, 96, 4))


class _DeepLab(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(block(3, 16, 3, 2), block(16, 24, 3, 2))
        self.deep = nn.Sequential(block(24, 32, 3, 2), block(32, 32))
        self.rates = nn.ModuleList(nn.Conv2d(32, 16, 3, padding=rate, dilation=rate) for rate in (1, 2, 4))
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 16, 1), nn.ReLU())
        self.project, self.low = block(64, 32, 1), block(24, 8, 1)
        self.head = nn.Conv2d(40, CLASSES, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        low = self.stem(x)
        deep = self.deep(low)
        everywhere = F.interpolate(self.pooled(deep), size=deep.shape[-2:], mode="bilinear", align_corners=False)
        deep = self.project(torch.cat([*(F.relu(rate(deep)) for rate in self.rates), everywhere], 1))
        deep = F.interpolate(deep, size=low.shape[-2:], mode="bilinear", align_corners=False)
        logits = self.head(torch.cat([deep, self.low(low)], 1))
        return F.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)


def deeplab_v3() -> Subject:
    """Chen et al. 2018, Encoder-Decoder with Atrous Separable Convolution (DeepLabv3+)."""
    return of_images(_DeepLab(), sides=(32, 96, 1))


class _Pyramid(nn.Module):
    """A small backbone and the feature pyramid over it (Lin et al. 2017)."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.stem = nn.Sequential(block(3, 16, 3, 2), block(16, 16, 3, 2))
        self.stages = nn.ModuleList([block(16, 24, 3, 1), block(24, 32, 3, 2), block(32, 48, 3, 2)])
        self.lateral = nn.ModuleList(nn.Conv2d(i, width, 1) for i in (24, 32, 48))
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> list[Tensor]:
        found, x = [], self.stem(x)
        for stage, lateral in zip(self.stages, self.lateral, strict=True):
            x = stage(x)
            found.append(lateral(x))
        for i in (1, 0):
            found[i] = found[i] + F.interpolate(found[i + 1], size=found[i].shape[-2:], mode="nearest")
        return [smooth(level) for smooth, level in zip(self.smooth, found, strict=True)]


def _rows(x: Tensor, per_row: int) -> Tensor:
    """(batch, anchors * per_row, height, width) -> (batch, places, per_row)."""
    batch, _, height, width = x.shape
    return x.view(batch, -1, per_row, height, width).permute(0, 3, 4, 1, 2).reshape(batch, -1, per_row)


class _RetinaNet(nn.Module):
    def __init__(self, anchors: int = 3) -> None:
        super().__init__()
        self.pyramid = _Pyramid()
        self.classes = nn.Sequential(
            nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, anchors * CLASSES, 3, padding=1)
        )
        self.boxes = nn.Sequential(nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, anchors * 4, 3, padding=1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        levels = self.pyramid(x)
        scores = torch.cat([_rows(self.classes(level), CLASSES) for level in levels], 1)
        return {"scores": scores.sigmoid(), "boxes": torch.cat([_rows(self.boxes(level), 4) for level in levels], 1)}


def retinanet() -> Subject:
    """Lin et al. 2017, Focal Loss for Dense Object Detection."""
    return of_images(_RetinaNet(), sides=(32, 96, 1))


class _Fcos(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pyramid = _Pyramid()
        self.tower = nn.Sequential(nn.Conv2d(24, 24, 3, padding=1), nn.GroupNorm(8, 24), nn.ReLU())
        self.classes, self.center = nn.Conv2d(24, CLASSES, 3, padding=1), nn.Conv2d(24, 1, 3, padding=1)
        self.sides = nn.Conv2d(24, 4, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        boxes, scores = [], []
        for i, level in enumerate(self.pyramid(x)):
            stride, height, width = 4 * 2**i, level.shape[2], level.shape[3]
            features = self.tower(level)
            rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
            y, x0 = torch.meshgrid(rows, columns, indexing="ij")
            at = (torch.stack([x0, y], -1).reshape(-1, 2) + 0.5) * stride
            left, right = (
                (F.softplus(self.sides(features) * self.scales[i]) * stride).flatten(2).transpose(1, 2).chunk(2, -1)
            )
            boxes.append(torch.cat([at - left, at + right], -1))
            score = self.classes(features).sigmoid() * self.center(features).sigmoid()
            scores.append(score.sqrt().flatten(2).transpose(1, 2))
        return torch.cat(boxes, 1), torch.cat(scores, 1)


def fcos() -> Subject:
    """Tian et al. 2019, FCOS: Fully Convolutional One-Stage Object Detection."""
    return of_images(_Fcos(), sides=(32, 96, 1))


class _Yolo(nn.Module):
    """Boxes are decoded from anchors inside the graph, one feature map at stride 8."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            block(3, 16, 3, 2, act=nn.SiLU), block(16, 32, 3, 2, act=nn.SiLU),
            Residual(nn.Sequential(block(32, 16, 1, act=nn.SiLU), block(16, 32, act=nn.SiLU))),
            block(32, 48, 3, 2, act=nn.SiLU),
        )  # fmt: skip
        self.squeeze, self.pool, self.join = block(48, 24, 1, act=nn.SiLU), nn.MaxPool2d(5, 1, 2), block(96, 48, 1)
        self.head = nn.Conv2d(48, 3 * (5 + CLASSES), 1)
        self.register_buffer("anchors", torch.tensor([[10.0, 13.0], [16.0, 30.0], [33.0, 23.0]]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(self.body(x))
        pools = [x]
        for _ in range(3):  # spatial pyramid pooling
            pools.append(self.pool(pools[-1]))
        found = self.head(self.join(torch.cat(pools, 1)))
        batch, _, height, width = found.shape
        found = found.view(batch, 3, 5 + CLASSES, height, width).permute(0, 1, 3, 4, 2).sigmoid()
        grid = torch.stack(torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy"), -1).to(found)
        center = (found[..., :2] * 2 - 0.5 + grid) * 8
        size = (found[..., 2:4] * 2) ** 2 * self.anchors[:, None, None]
        return torch.cat([center, size, found[..., 4:]], -1).reshape(batch, -1, 5 + CLASSES)


def yolo_v5() -> Subject:
    """Redmon and Farhadi 2018, YOLOv3: An Incremental Improvement (anchors decoded as in its descendant v5)."""
    return of_images(_Yolo(), sides=(32, 96, 1))


class _CenterNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(block(3, 16, 3, 2), block(16, 32, 3, 2), block(32, 32, 3, 2))
        self.up = nn.Sequential(nn.ConvTranspose2d(32, 24, 4, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.heat = nn.Sequential(nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, CLASSES, 1))
        self.size = nn.Sequential(nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 2, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.up(self.body(x))
        heat = self.heat(x).sigmoid()
        return heat * (F.max_pool2d(heat, 3, 1, 1) == heat), self.size(x)  # peaks alone remain


def centernet() -> Subject:
    """Zhou et al. 2019, Objects as Points."""
    return of_images(_CenterNet(), sides=(32, 96, 1))


def espcn() -> Subject:
    """Shi et al. 2016, Real-Time Single Image Super-Resolution (sub-pixel convolution)."""
    body = [nn.Conv2d(3, 32, 5, padding=2), nn.Tanh(), Residual(nn.Conv2d(32, 32, 3, padding=1)), nn.Tanh()]
    return of_images(
        nn.Sequential(*body, nn.Conv2d(32, 27, 3, padding=1), nn.PixelShuffle(3)), sides=(8, 48, 1), name="input"
    )


def style_transfer() -> Subject:
    """Johnson et al. 2016, Perceptual Losses for Real-Time Style Transfer (with instance norm)."""

    def layer(i: int, o: int, k: int, s: int = 1) -> list[nn.Module]:
        return [nn.ReflectionPad2d(k // 2), nn.Conv2d(i, o, k, s), nn.InstanceNorm2d(o, affine=True), nn.ReLU()]

    middle = Residual(nn.Sequential(*layer(32, 32, 3)))
    up = nn.Upsample(scale_factor=2, mode="nearest")
    layers = [*layer(3, 16, 9), *layer(16, 32, 3, 2), middle, up, *layer(32, 16, 3), nn.ReflectionPad2d(4)]
    return of_images(nn.Sequential(*layers, nn.Conv2d(16, 3, 9)), sides=(16, 64, 1), name="input")


def dcgan() -> Subject:
    """Radford et al. 2015, Unsupervised Representation Learning with DCGAN (the generator)."""

    def up(i: int, o: int, stride: int, padding: int) -> list[nn.Module]:
        return [nn.ConvTranspose2d(i, o, 4, stride, padding, bias=False), nn.BatchNorm2d(o), nn.ReLU()]

    layers = [*up(32, 64, 1, 0), *up(64, 32, 2, 1), *up(32, 16, 2, 1), nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh()]
    module = nn.Sequential(nn.Unflatten(1, (32, 1, 1)), *layers)
    return awake(module, {"input": normal(2, 32)}, {"input": {0: BATCH}})


class _Vae(nn.Module):
    """The answer is the reconstruction from the mean, beside mean and log variance."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(16, 32, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten()
        )
        self.mean, self.log_variance = nn.Linear(32 * 49, 16), nn.Linear(32 * 49, 16)
        self.spread = nn.Linear(16, 32 * 49)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(32, 16, 3, 2, 1, output_padding=1), nn.LeakyReLU(0.2), nn.ConvTranspose2d(16, 1, 4, 2, 1)
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        code = self.encoder(x)
        mean, log_variance = self.mean(code), self.log_variance(code).clamp(-10, 10)
        drawn = torch.exp(0.5 * log_variance) * torch.randn_like(mean) if self.training else 0
        image = self.decoder(F.elu(self.spread(mean + drawn)).view(-1, 32, 7, 7)).sigmoid()
        return {"image": image, "mean": mean, "log_variance": log_variance}


def vae() -> Subject:
    """Kingma and Welling 2013, Auto-Encoding Variational Bayes."""
    return of_images(_Vae(), (1, 28, 28))


ZOO = named(
    "torchvision style", unet, deeplab_v3, retinanet, fcos, yolo_v5, centernet, espcn, style_transfer, dcgan, vae
)  # fmt: skip
