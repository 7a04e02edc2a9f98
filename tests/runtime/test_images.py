"""Pixels become what the network was trained on, or the image is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeai.errors import DataError, InputError
from edgeai.runtime.images import ImagePreparation, load_array

BASE = {"size": [2, 2], "channels": 3, "scale": 1 / 255, "mean": [0.5, 0.4, 0.3], "std": [0.5, 0.25, 1.0]}


def test_scales_normalizes_and_puts_channels_first() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    expected = (image / 255 - np.array(BASE["mean"])) / np.array(BASE["std"])
    result = ImagePreparation.of(BASE)(image)
    assert (result.dtype, result.shape, result.flags.c_contiguous) == (np.float32, (3, 2, 2), True)
    np.testing.assert_allclose(result, expected.transpose(2, 0, 1), rtol=1e-6)


def test_crops_the_centre_and_repeats_one_channel() -> None:
    prepare = ImagePreparation.of({"size": [2, 2], "resize": [4, 6], "crop": [2, 2], "channels": 2, "scale": 1.0})
    image = np.arange(24, dtype=np.uint8).reshape(4, 6)
    np.testing.assert_array_equal(prepare(image), [image[1:3, 2:4]] * 2)
    np.testing.assert_array_equal(prepare(image[..., None]), prepare(image))
    np.testing.assert_array_equal(prepare(image[:2, :2]), [image[:2, :2]] * 2)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.zeros((2, 2)), "expected a uint8 image .* got float64"),
        (np.zeros((2, 2, 3, 1), np.uint8), r"got uint8 \(2, 2, 3, 1\)"),
        (np.zeros((3, 2), np.uint8), "3x2 pixels .resize it to 2x2"),
        (np.zeros((2, 2, 4), np.uint8), "has 4 channels, the network takes 3"),
    ],
)
def test_other_images_are_refused(image: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        ImagePreparation.of(BASE)(image)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"blur": 1}, "'blur' is not known"),
        ({"layout": "NHWC"}, "layout NHWC"),
        ({"crop": [3, 3]}, "crop and size differ"),
        ({"mean": [1]}, "mean and std need 3 values"),
        ({"std": [1, 0, 1]}, "no std may be 0"),
        ({"size": [0, 2]}, "is not a size"),
        ({"resize": [1, 9]}, "resize is smaller"),
    ],
)
def test_descriptions_that_cannot_be_carried_out(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ImagePreparation.of(BASE | change)


def test_arrays_come_from_files(tmp_path: Path) -> None:
    array = np.arange(3)
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(load_array(tmp_path / "a.npy"), array)
    np.savez(tmp_path / "a.npz", x=array)
    np.save(tmp_path / "o.npy", np.array([None]), allow_pickle=True)
    (tmp_path / "t.npy").write_text("no")
    for name, reason in (("no.npy", "No such file"), ("o.npy", "not an array"), ("t.npy", "not an array"),
                         ("a.npz", "several arrays")):  # fmt: skip
        with pytest.raises(DataError, match=rf"{name}.*{reason}"):
            load_array(tmp_path / name)
    with pytest.raises(InputError, match="got list"):
        load_array([1])  # type: ignore[arg-type]
