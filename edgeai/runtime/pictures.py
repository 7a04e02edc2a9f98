"""Pictures from files, and pictures of another size: the two things that need Pillow, which is imported then."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np

from edgeai.errors import DataError, InputError, MissingDependencyError
from edgeai.spec import Array

# What a bundle may record -> Pillow's name. Pillow resizes by area where it makes smaller, except by nearest.
RESAMPLING: Mapping[str, str] = {
    "nearest": "NEAREST",
    "bilinear": "BILINEAR",
    "bicubic": "BICUBIC",
    "lanczos": "LANCZOS",
}
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
_MODES = {1: "L", 3: "RGB"}


def decode(path: str | Path, channels: int) -> Array:
    """uint8 (height, width) of a picture for one channel, (height, width, 3) for three, as stored in the file.

    Raises DataError naming a file that is no such picture, or one with so many pixels that it looks like an attack;
    InputError for another number of channels; MissingDependencyError without Pillow.
    """
    if channels not in _MODES:
        raise InputError(f"{path}: a picture has 1 or 3 channels, the network takes {channels}", hint="give an array")
    image = _pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", image.DecompressionBombWarning)
            with image.open(path, formats=_FORMATS) as picture:
                return np.array(picture.convert(_MODES[channels]))
    except (
        OSError,
        SyntaxError,
        ValueError,
        MemoryError,
        image.DecompressionBombWarning,
        image.DecompressionBombError,
    ) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: not a picture that can be read ({reason})") from error


def resized(pixels: Array, size: tuple[int, int], resample: str) -> Array:
    """uint8 (height, width, channels) at another size (height, width). Raises MissingDependencyError without Pillow."""
    image = _pillow()
    method = getattr(image.Resampling, RESAMPLING[resample])
    height, width = size
    planes = [
        np.asarray(image.fromarray(np.ascontiguousarray(pixels[..., channel])).resize((width, height), method))
        for channel in range(pixels.shape[2])
    ]
    return np.stack(planes, axis=-1)


def _pillow() -> ModuleType:
    try:
        return importlib.import_module("PIL.Image")
    except ImportError as error:
        raise MissingDependencyError(
            "reading and resizing pictures needs Pillow, which is not installed",
            hint="pip install 'edgeai[images]', or give uint8 arrays (.npy) of the network's size",
        ) from error
