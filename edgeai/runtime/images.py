"""Images as arrays: from uint8 pixels to what the network was trained on.

With numpy alone where the pixels come as arrays of the right size; files and other sizes need Pillow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from edgeai.errors import DataError, InputError
from edgeai.runtime.pictures import RESAMPLING, decode, resized
from edgeai.spec import Array

# A strip of one by a million pixels is a small file, until its shorter edge is made as long as the network's.
_MOST_PIXELS = 1 << 26


@dataclass(frozen=True)
class ImagePreparation:
    """Resize, crop to the centre, scale, normalize, and put the channels first.

    `size` is (height, width) of the result. With `resample` (one of `RESAMPLING`) an image of any size is first
    resized to `resize`: (height, width), or the length of its shorter edge. Without, it must have the size of the
    result, or that of `resize`, which is then cropped. `mean` and `std` have one value a channel and apply after
    `scale`.
    """

    size: tuple[int, int]
    channels: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: tuple[int, int] | int | None = None
    resample: str | None = None

    @classmethod
    def of(cls, preprocessing: Mapping[str, Any]) -> Self:
        """From a bundle's description. Raises KeyError, TypeError or ValueError for one that cannot be carried out."""
        known = {"size", "resize", "crop", "resample", "channels", "layout", "scale", "mean", "std"}
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
        resize, resample = preprocessing.get("resize"), preprocessing.get("resample")
        if resize is not None and type(resize) is not int:
            resize = _pair(resize)
        if resample is not None and resample not in RESAMPLING:
            raise ValueError(f"resample {resample!r} is not one of {', '.join(RESAMPLING)}")
        if type(resize) is int and resample is None:
            raise ValueError("resize to a shorter edge needs resample")
        smallest = (resize, resize) if isinstance(resize, int) else resize
        if smallest and (smallest[0] < size[0] or smallest[1] < size[1]):
            raise ValueError("resize is smaller than size")
        return cls(size, channels, float(preprocessing["scale"]), mean, std, resize, resample)

    def read(self, item: Array | str | Path) -> Array:
        """An array as it is or from a `.npy` file, or a picture (PNG, JPEG, ...) in the network's channels."""
        if isinstance(item, str | Path) and Path(item).suffix.lower() != ".npy":
            return decode(item, self.channels)
        return load_array(item)

    def __call__(self, image: Array) -> Array:
        """uint8 (height, width) or (height, width, channels) -> float32 (channels, height, width).

        One channel is repeated where the network has more. Raises InputError for any other array, and for one that
        resizing would make enormous.
        """
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or not image.size:
            raise InputError(f"expected a uint8 image (height, width[, channels]), got {image.dtype} {image.shape}")
        pixels = image if image.ndim == 3 else image[..., None]
        if pixels.shape[2] not in (1, self.channels):
            raise InputError(f"the image has {pixels.shape[2]} channels, the network takes {self.channels}")
        pixels = self._fitted(pixels)
        top, left = ((have - want) // 2 for have, want in zip(pixels.shape[:2], self.size, strict=True))
        pixels = pixels[top : top + self.size[0], left : left + self.size[1]]
        scaled = (pixels * self.scale - np.array(self.mean)) / np.array(self.std)  # (height, width, channels)
        return np.ascontiguousarray(scaled.transpose(2, 0, 1), dtype=np.float32)

    def _fitted(self, pixels: Array) -> Array:
        """At least `size`: resized where that was recorded, else as they are."""
        height, width = pixels.shape[:2]
        if self.resample is not None:
            target = self.resize or self.size
            if isinstance(target, int):  # the longer edge keeps the proportion, rounded down
                short = min(height, width)
                target = (target * height // short, target * width // short)
            if target[0] * target[1] > _MOST_PIXELS:
                raise InputError(
                    f"the image has {height}x{width} pixels, which would be resized to {target[0]}x{target[1]}",
                    hint="crop it to the part that matters",
                )
            return pixels if target == (height, width) else resized(pixels, target, self.resample)
        if (height, width) not in (self.size, self.resize):
            known = [size for size in (self.size, self.resize) if isinstance(size, tuple)]
            sizes = " or ".join(f"{rows}x{columns}" for rows, columns in known)
            raise InputError(f"the image has {height}x{width} pixels", hint=f"resize it to {sizes}")
        return pixels


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
