from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeai import modelfile
from edgeai.errors import InputError, QuantizationError
from edgeai.machine import machine
from edgeai.quantization.calibration import Calibration
from edgeai.quantization.observers import calibration_feeds, count_feeds, observe
from edgeai.samples import Samples
from edgeai.spec import Axis, Signature, TensorSpec

_GRAPH = """g (float[n, s] x) => (float[n, s] y) {
    a = Exp(x) b = Neg(a) c = Cast<to = 7>(x) d = Cast<to = 1>(c) y = Add(b, d) }"""


def _watch(*names: str) -> dict[str, int | None]:
    return dict.fromkeys(names)


def _ragged(*lengths: int) -> Samples:
    random = np.random.default_rng(0)
    return Samples.from_feeds([{"x": random.standard_normal((n, 9 - n)).astype(np.float32)} for n in lengths])


def test_tensors_are_seen_over_ragged_feeds(write: Callable[..., Any]) -> None:
    artifact, samples = write(_GRAPH), _ragged(1, 3, 6)
    model = modelfile.load(artifact.path)
    found = observe(model, _watch("x", "a", "b", "c", "unknown"), artifact.signature, samples)
    flat = np.concatenate([feed["x"].ravel() for feed in samples.feeds()])
    assert set(found.tensors) == {"x", "a", "b"}, "c is no float"
    assert found.is_complete and found.others == {"c", "unknown"}
    seen = found.tensors["x"]
    assert (seen.histogram.low, seen.histogram.high, seen.histogram.total) == (flat.min(), flat.max(), flat.size)
    np.testing.assert_array_equal(seen.histogram.counts, np.histogram(flat, seen.histogram.edges)[0])
    assert found.tensors["a"].histogram.high == pytest.approx(np.exp(flat.max()), rel=1e-6)
    assert [value.name for value in model.graph.outputs] == ["y"], "the model itself is not changed"


def test_channels_are_counted_where_asked(write: Callable[..., Any]) -> None:
    artifact = write(_GRAPH)
    rows = np.random.default_rng(5).standard_normal((6, 4)).astype(np.float32)
    found = observe(
        modelfile.load(artifact.path), {"x": -1, "a": None}, artifact.signature, Samples.from_rows({"x": rows})
    )
    channels = found.tensors["x"].channels
    assert channels is not None and found.tensors["a"].channels is None
    np.testing.assert_allclose(channels.largest, np.abs(rows).max(0))
    np.testing.assert_allclose(channels.mean, rows.mean(0), rtol=1e-5)


def test_tensors_without_elements_are_complete_and_empty(write: Callable[..., Any]) -> None:
    artifact = write(_GRAPH)
    samples = Samples.from_feeds([{"x": np.empty((0, 3), np.float32)}])
    seen = observe(modelfile.load(artifact.path), _watch("a"), artifact.signature, samples).tensors["a"]
    assert (seen.histogram.total, seen.feeds) == (0, 1)


def test_nan_names_the_tensor_and_the_feed_and_marks_are_counted(write: Callable[..., Any]) -> None:
    artifact = write(_GRAPH)
    model = modelfile.load(artifact.path)
    rows = np.zeros((3, 2), np.float32)
    rows[1, 0] = -np.inf
    samples = Samples.from_rows({"x": rows})
    seen = observe(model, _watch("x"), artifact.signature, samples).tensors["x"]
    assert (seen.histogram.marks, seen.histogram.total) == (1, 5)
    rows[2, 1] = np.nan
    with pytest.raises(QuantizationError, match="tensor x is NaN in feed 2, so it has no range"):
        observe(model, _watch("x"), artifact.signature, Samples.from_rows({"x": rows}))


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
            observe(model, _watch("a", "b"), artifact.signature, samples)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)
    assert abs(peak(64) - peak(8)) < row.nbytes


class _Count:
    """Remembers what it is told; `stop_after` feeds it behaves as if the user had pressed Ctrl-C."""

    def __init__(self, stop_after: int = 10**9) -> None:
        self.tasks: list[int] = []
        self.feeds = 0
        self._stop_after = stop_after

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Callable[..., None]]:
        self.tasks.append(total)
        yield self._advance

    def _advance(self, n: int = 1, *, note: str = "") -> None:
        self.feeds += n
        if self.feeds >= self._stop_after:
            raise KeyboardInterrupt

    def log(self, message: str) -> None:
        raise AssertionError(message)


def _same(one: Calibration, other: Calibration) -> None:
    assert one.feeds == other.feeds and one.model == other.model and one.tensors.keys() == other.tensors.keys()
    for name, seen in one.tensors.items():
        twin = other.tensors[name]
        np.testing.assert_array_equal(seen.histogram.counts, twin.histogram.counts)
        assert (seen.histogram.low, seen.histogram.high) == (twin.histogram.low, twin.histogram.high)
        assert seen.average == pytest.approx(twin.average, rel=1e-9)
        assert seen.feeds == twin.feeds


def test_what_does_not_fit_the_budget_is_seen_in_several_passes(write: Callable[..., Any]) -> None:
    artifact, samples = write(_GRAPH), _ragged(4, 2, 7, 5)
    arguments = (modelfile.load(artifact.path), _watch("x", "a", "b", "d"), artifact.signature, samples)
    at_once, tight = _Count(), _Count()
    whole = observe(*arguments, progress=at_once)
    split = observe(*arguments, budget_bytes=100, progress=tight)
    assert at_once.tasks == [4]
    assert tight.tasks == [4, 4, 4], "x costs nothing: it is an input"
    _same(whole, split)


def test_tensors_of_unknown_size_are_measured_and_then_split(write: Callable[..., Any]) -> None:
    artifact = write("""g (float[n, s] x) => (float[k] y) {
        i = NonZero(x) t = Transpose(i) g1 = GatherND(x, t) a = Exp(g1) b = Neg(a) y = Add(a, b) }""")
    samples = _ragged(4, 2, 7, 5)
    arguments = (modelfile.load(artifact.path), _watch("a", "b"), artifact.signature, samples)
    tight = _Count()
    _same(observe(*arguments), observe(*arguments, budget_bytes=100, progress=tight))
    assert tight.tasks == [4, 3, 3], "one feed with both, then each for itself"


def test_counting_in_threads_changes_nothing(write: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    artifact, watch = write(_GRAPH), {"x": -1, "a": None, "b": 0, "d": None, "y": -1}
    random, model = np.random.default_rng(3), modelfile.load(artifact.path)
    rows = random.standard_normal((3, 2, 70_000)).astype(np.float32)
    samples = Samples.from_feeds([{"x": row} for row in rows])
    one_by_one = observe(model, watch, artifact.signature, samples)
    monkeypatch.setattr("edgeai.quantization.observers._WORTH_THREADS_BYTES", 0)
    monkeypatch.setattr("edgeai.quantization.observers._THREADS", 4)
    monkeypatch.setattr("edgeai.quantization.observers.machine", lambda: dataclasses.replace(machine(), cores=4))
    at_once = observe(model, watch, artifact.signature, samples)
    _same(one_by_one, at_once)
    assert list(one_by_one.tensors) == list(at_once.tensors)
    for name, seen in at_once.tensors.items():
        twin = one_by_one.tensors[name]
        assert seen.recent == twin.recent
        if seen.channels is not None and twin.channels is not None:
            np.testing.assert_array_equal(seen.channels.total, twin.channels.total)
    rows[2, 1, 5] = np.nan
    with pytest.raises(QuantizationError, match="tensor x is NaN in feed 2"):
        observe(model, watch, artifact.signature, samples)


def test_an_interrupted_observation_goes_on_where_it_stopped(write: Callable[..., Any], tmp_path: Path) -> None:
    artifact, samples = write(_GRAPH), _ragged(4, 2, 7, 5, 3)
    model = modelfile.load(artifact.path)
    with pytest.raises(KeyboardInterrupt):
        observe(model, _watch("x", "a", "b"), artifact.signature, samples, cache=tmp_path / "c", progress=_Count(2))
    (kept,) = (tmp_path / "c").iterdir()
    halfway = Calibration.load(kept)
    assert not halfway.is_complete and {seen.feeds for seen in halfway.tensors.values()} == {2}
    again = _Count()
    resumed = observe(model, _watch("x", "a", "b"), artifact.signature, samples, cache=tmp_path / "c", progress=again)
    assert again.tasks == [3]
    _same(resumed, observe(model, _watch("x", "a", "b"), artifact.signature, samples))


def test_the_cache_knows_model_samples_and_tensors(write: Callable[..., Any], tmp_path: Path) -> None:
    body = "g (float[n, 4] x) => (float[n, 3] y) { h = Exp(x) y = MatMul(h, W) }"
    weight = np.ones((4, 3), np.float32)
    artifact, rows = write(body, W=weight), np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)

    def tasks(watch: dict[str, int | None], *, w: Any = weight, x: Any = rows) -> list[int]:
        count = _Count()
        model = modelfile.load(write(body, W=w).path)
        observe(model, watch, artifact.signature, Samples.from_rows({"x": x}), cache=tmp_path / "c", progress=count)
        return count.tasks

    assert tasks(_watch("x", "h")) == [5]
    assert tasks(_watch("x", "h")) == tasks(_watch("h")) == []
    assert tasks({"x": None, "h": -1}) == [5], "its channels were not counted"
    assert tasks({"x": None, "h": -1}) == tasks(_watch("h")) == []
    assert tasks(_watch("h", "y")) == [5], "y is new, h is not seen again"
    assert tasks(_watch("h"), w=weight * 2) == [5]
    assert tasks(_watch("h"), x=rows[::-1].copy()) == [5]
    assert len(list((tmp_path / "c").iterdir())) == 3
    for file in (tmp_path / "c").iterdir():
        file.write_bytes(b"damaged")
    with pytest.raises(
        QuantizationError, match=r"calibration cache: .*not an .npz of calibration .* \(remove that file\)"
    ):
        tasks(_watch("h"))


def test_a_model_that_fails_on_a_sample_says_so(write: Callable[..., Any]) -> None:
    artifact = write("g (int64[n] ids) => (float[n, 4] y) { y = Gather(W, ids) }", W=np.ones((3, 4), np.float32))
    samples = Samples.from_rows({"ids": np.array([0, 9])})
    with pytest.raises(QuantizationError, match="calibration: the model does not run on the samples"):
        observe(modelfile.load(artifact.path), _watch("y"), artifact.signature, samples)


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
    artifact, count = write(_GRAPH), _Count()
    samples = Samples.from_rows({"x": np.ones((3, 2), np.float32)})
    observe(modelfile.load(artifact.path), _watch("a"), artifact.signature, samples, progress=count)
    assert (count.tasks, count.feeds) == ([3], 3)
