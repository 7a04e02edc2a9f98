"""Images as arrays: from uint8 pixels to what the network was trained on, with numpy alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from edgeai.errors import DataError, InputError
from edgeai.spec import Array


@dataclass(frozen=True)
class ImagePreparation:
    """Crop to the centre, scale, normalize, and put the channels first.

    `size` is (height, width) of the result. An image must have that size, or `crop_from`, which is then cropped.
    `mean` and `std` have one value a channel and apply after `scale`.
    """

    size: tuple[int, int]
    channels: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_from: tuple[int, int] | None = None

    @classmethod
    def of(cls, preprocessing: Mapping[str, Any]) -> Self:
        """From a bundle's description. Raises KeyError, TypeError or ValueError for one that cannot be carried out."""
        known = {"size", "resize", "crop", "channels", "layout", "scale", "mean", "std"}
        if unknown := sorted(preprocessing.keys() - known):
            raise ValueError(f"preprocessing {unknown[0]!r} is not known here")
        if preprocessing.get("layout", "NCHW") != "NCHW":
            raise ValueError(f"layout {preprocessing['layout']} is not known here")
        size, channels = _pair(preprocessing["size"]), int(preprocessing["channels"])
        if _pair(preprocessing.get("crop", size)) != size:
            raise ValueError("crop and size differ")
        mean = tuple(map(float, preprocessing.get("mean", [0.0] * channels)))
        std = tuple(map(float, preprocessing.get("std", [1.0] * channels)))
        if len(mean) != channels or len(std) != channels or not all(std):
            raise ValueError(f"mean and std need {channels} values each, and no std may be 0")
        crop_from = _pair(preprocessing["resize"]) if "resize" in preprocessing else None
        if crop_from and (crop_from[0] < size[0] or crop_from[1] < size[1]):
            raise ValueError("resize is smaller than size")
        return cls(size, channels, float(preprocessing["scale"]), mean, std, crop_from)

    def __call__(self, image: Array) -> Array:
        """uint8 (height, width) or (height, width, channels) -> float32 (channels, height, width).

        One channel is repeated where the network has more. Raises InputError for any other array.
        """
        if image.dtype != np.uint8 or image.ndim not in (2, 3):
            raise InputError(f"expected a uint8 image (height, width[, channels]), got {image.dtype} {image.shape}")
        if image.shape[:2] not in (self.size, self.crop_from):
            sizes = " or ".join(f"{height}x{width}" for height, width in filter(None, (self.size, self.crop_from)))
            raise InputError(f"the image has {image.shape[0]}x{image.shape[1]} pixels", hint=f"resize it to {sizes}")
        pixels = image if image.ndim == 3 else image[..., None]
        if pixels.shape[2] not in (1, self.channels):
            raise InputError(f"the image has {pixels.shape[2]} channels, the network takes {self.channels}")
        top, left = ((have - want) // 2 for have, want in zip(pixels.shape[:2], self.size, strict=True))
        pixels = pixels[top : top + self.size[0], left : left + self.size[1]]
        scaled = (pixels * self.scale - np.array(self.mean)) / np.array(self.std)  # (height, width, channels)
        return np.ascontiguousarray(scaled.transpose(2, 0, 1), dtype=np.float32)


def load_array(item: Array | str | Path) -> Array:
    """An array as it is, or from a `.npy` file. Never unpickles. Raises DataError naming the file, or InputError."""
    if isinstance(item, np.ndarray):
        return item
    if not isinstance(item, str | Path):
        raise InputError(f"expected an array or the path of a .npy file, got {type(item).__name__}")
    try:
        array = np.load(item, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise DataError(f"{item}: not an array (.npy): {error}", hint="save it with numpy.save") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise DataError(f"{item}: holds several arrays (.npz)", hint="save one with numpy.save")
    return array


def _pair(value: Any) -> tuple[int, int]:
    height, width = map(int, value)
    if min(height, width) < 1:
        raise ValueError(f"{value} is not a size")
    return height, width
