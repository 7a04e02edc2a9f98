"""Pixels become what the network was trained on, or the image is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeai.errors import DataError, InputError, MissingDependencyError
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
        (np.zeros((0, 2, 3), np.uint8), r"got uint8 \(0, 2, 3\)"),
    ],
)
def test_other_images_are_refused(image: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        ImagePreparation.of(BASE)(image)


@pytest.mark.parametrize("shape", [(1, 5_000_000), (5_000_000, 1, 3)])
def test_a_strip_that_resizing_would_make_enormous_is_refused(shape: tuple[int, ...]) -> None:
    prepare = ImagePreparation.of(BASE | {"resize": 224, "resample": "nearest"})
    with pytest.raises(InputError, match=r"would be resized to (224x1120000000|1120000000x224) .crop it"):
        prepare(np.zeros(shape, np.uint8))
    assert prepare(np.zeros((100, 1), np.uint8)).shape == (3, 2, 2)


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
        ({"resize": 1, "resample": "bilinear"}, "resize is smaller"),
        ({"resize": 4}, "shorter edge needs resample"),
        ({"resample": "cubic"}, "resample 'cubic' is not one of nearest"),
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


def picture(path: Path, pixels: np.ndarray) -> Path:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    image.fromarray(pixels).save(path)
    return path


def test_a_picture_is_read_in_the_network_s_channels(tmp_path: Path) -> None:
    gray = np.arange(4, dtype=np.uint8).reshape(2, 2)
    colours = np.stack([gray, gray + 10, gray + 20], axis=-1)
    three = ImagePreparation.of(BASE | {"mean": [0] * 3, "std": [1] * 3, "scale": 1.0})
    one = ImagePreparation.of({"size": [2, 2], "channels": 1, "scale": 1.0})
    np.testing.assert_array_equal(three.read(picture(tmp_path / "c.png", colours)), colours)
    np.testing.assert_array_equal(three(three.read(picture(tmp_path / "g.png", gray))), [gray] * 3)
    np.testing.assert_array_equal(one.read(str(picture(tmp_path / "g.png", gray))), gray)
    with pytest.raises(InputError, match="1 or 3 channels, the network takes 2"):
        ImagePreparation.of({"size": [2, 2], "channels": 2, "scale": 1.0}).read(tmp_path / "g.png")


@pytest.mark.parametrize(
    ("shape", "resize", "whole"),
    [
        ((8, 4), None, (2, 2)),  # to the size of the result
        ((9, 15), [4, 6], (4, 6)),
        ((9, 15), 3, (3, 5)),  # the shorter edge
        ((15, 9), 3, (5, 3)),
        ((3, 7), 3, (3, 7)),
    ],
)
@pytest.mark.parametrize("resample", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_images_of_any_size_are_resized_as_recorded(
    shape: tuple[int, int], resize: Any, whole: tuple[int, int], resample: str
) -> None:
    library = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    recorded = {"size": [2, 2], "channels": 3, "scale": 1.0, "resample": resample}
    prepare = ImagePreparation.of(recorded | ({} if resize is None else {"resize": resize}))
    method = getattr(library.Resampling, resample.upper())
    expected = np.asarray(library.fromarray(image).resize((whole[1], whole[0]), method))
    top, left = (whole[0] - 2) // 2, (whole[1] - 2) // 2
    np.testing.assert_array_equal(prepare(image), expected[top : top + 2, left : left + 2].transpose(2, 0, 1))


def test_files_that_are_no_pictures_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    prepare = ImagePreparation.of(BASE)
    (tmp_path / "t.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    whole = picture(tmp_path / "w.png", np.zeros((40, 40, 3), np.uint8)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for name in ("no.png", "t.png", "cut.png"):
        with pytest.raises(DataError, match=f"{name}: not a picture"):
            prepare.read(tmp_path / name)
    monkeypatch.setattr(library, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match=r"w\.png: not a picture .*decompression bomb"):
        prepare.read(tmp_path / "w.png")


def test_without_pillow_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.delitem(sys.modules, "PIL.Image", raising=False)
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgeai\[images\]'"):
        ImagePreparation.of(BASE).read(tmp_path / "a.png")
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgeai\[images\]'"):
        ImagePreparation.of(BASE | {"resample": "bilinear"})(np.zeros((9, 9, 3), np.uint8))
    same = ImagePreparation.of(BASE | {"resample": "bilinear"})(np.zeros((2, 2, 3), np.uint8))
    assert same.shape == (3, 2, 2), "an image of the right size needs no Pillow"
