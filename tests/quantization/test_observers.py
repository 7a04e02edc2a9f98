from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeai import modelfile
from edgeai.errors import InputError, QuantizationError
from edgeai.quantization.observers import Range, calibration_feeds, count_feeds, observe
from edgeai.samples import Samples
from edgeai.spec import Axis, Signature, TensorSpec

_GRAPH = """g (float[n, s] x) => (float[n, s] y) {
    a = Exp(x) b = Neg(a) c = Cast<to = 7>(x) d = Cast<to = 1>(c) y = Add(b, d) }"""
_ARRAYS = hnp.arrays(
    np.float32, hnp.array_shapes(max_dims=3, min_side=0), elements=st.floats(width=32, allow_nan=False)
)


@given(st.lists(_ARRAYS, max_size=6))
def test_a_range_is_the_minimum_and_maximum_of_everything_seen(arrays: list[np.ndarray]) -> None:
    found = Range()
    for array in arrays:
        found = found.including(array)
    everything = np.concatenate([array.ravel() for array in arrays]) if arrays else np.array([])
    assert found.is_empty == (everything.size == 0)
    if everything.size:
        assert (found.low, found.high) == (everything.min(), everything.max())
        assert found.is_finite == bool(np.isfinite(everything).all())


@pytest.mark.parametrize("order", [1, -1])
def test_nan_is_never_forgotten(order: int) -> None:
    found = Range()
    for value in [1.0, math.nan, 2.0][::order]:
        found = found.including(np.array([value], np.float32))
    assert math.isnan(found.low)
    assert not found.is_finite


def test_ranges_are_those_of_the_tensors_over_ragged_feeds(write: Callable[..., Any]) -> None:
    artifact = write(_GRAPH)
    arrays = [np.random.default_rng(i).standard_normal((i, 7 - i)).astype(np.float32) for i in (1, 3, 6)]
    samples = Samples.from_feeds([{"x": array} for array in arrays])
    model = modelfile.load(artifact.path)
    found = observe(model, ["x", "a", "b", "c", "unknown"], artifact.signature, samples)
    flat = np.concatenate([array.ravel() for array in arrays])
    assert set(found) == {"x", "a", "b"}, "c is no float"
    assert (found["x"].low, found["x"].high) == (flat.min(), flat.max())
    assert found["a"].high == pytest.approx(np.exp(flat.max()), rel=1e-6)
    assert found["b"] == Range(-found["a"].high, -found["a"].low)
    assert [value.name for value in model.graph.outputs] == ["y"], "the model itself is not changed"


def test_tensors_without_elements_get_a_range_all_the_same(write: Callable[..., Any]) -> None:
    artifact = write(_GRAPH)
    samples = Samples.from_feeds([{"x": np.empty((0, 3), np.float32)}])
    assert observe(modelfile.load(artifact.path), ["a"], artifact.signature, samples) == {"a": Range(0.0, 0.0)}


def test_one_feed_after_another_is_held_never_all(write: Callable[..., Any]) -> None:
    """Peak memory of calibration with 8 and with 64 samples differs by less than one sample."""
    import tracemalloc

    artifact = write(_GRAPH)
    model = modelfile.load(artifact.path)
    row = np.ones((1, 1, 50_000), np.float32)[0]

    def peak(count: int) -> int:
        samples = Samples.from_feeds([{"x": row}] * count)
        tracemalloc.start()
        try:
            observe(model, ["a", "b"], artifact.signature, samples)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)
    assert abs(peak(64) - peak(8)) < row.nbytes


def test_a_model_that_fails_on_a_sample_says_so(write: Callable[..., Any]) -> None:
    artifact = write("g (int64[n] ids) => (float[n, 4] y) { y = Gather(W, ids) }", W=np.ones((3, 4), np.float32))
    samples = Samples.from_rows({"ids": np.array([0, 9])})
    with pytest.raises(QuantizationError, match="calibration: the model does not run on the samples"):
        observe(modelfile.load(artifact.path), ["y"], artifact.signature, samples)


def _signature(first: int | str, *axes: Axis) -> Signature:
    return Signature((TensorSpec("x", "float32", (first, 2)),), (), axes)


@pytest.mark.parametrize(
    ("signature", "sizes"),
    [
        (_signature("n"), [1, 1, 1, 1, 1]),
        (_signature(2), [2, 2, 2]),
        (_signature(8), [8]),
        (_signature("n", Axis("n", 3, 9)), [3, 3]),
    ],
)
def test_rows_come_in_feeds_that_the_model_takes(signature: Signature, sizes: list[int]) -> None:
    rows = np.arange(10, dtype=np.float32).reshape(5, 2)
    feeds = list(calibration_feeds(signature, Samples.from_rows({"x": rows})))
    assert [len(feed["x"]) for feed in feeds] == sizes
    assert count_feeds(signature, Samples.from_rows({"x": rows})) == len(sizes)
    assert {tuple(row) for feed in feeds for row in feed["x"]} == {tuple(row) for row in rows}


def test_whole_feeds_are_passed_on_as_they_are_and_checked() -> None:
    samples = Samples.from_feeds([{"x": np.ones((n, 2), np.float32)} for n in (4, 1)])
    assert [len(feed["x"]) for feed in calibration_feeds(_signature("n"), samples)] == [4, 1]
    assert count_feeds(_signature("n"), samples) == 2
    with pytest.raises(InputError, match="axis 0 must be 4, got 1"):
        list(calibration_feeds(_signature(4), samples))


def test_progress_counts_every_feed(write: Callable[..., Any]) -> None:
    seen: list[Any] = []

    class Count:
        @contextmanager
        def task(self, label: str, total: int) -> Iterator[Callable[..., None]]:
            seen.extend([label, total])
            yield lambda n=1, *, note="": seen.append(n)

        def log(self, message: str) -> None:
            raise AssertionError(message)

    artifact = write(_GRAPH)
    samples = Samples.from_rows({"x": np.ones((3, 2), np.float32)})
    observe(modelfile.load(artifact.path), ["a"], artifact.signature, samples, progress=Count())
    assert seen == ["calibrate", 3, 1, 1, 1]
