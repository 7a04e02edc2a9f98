"""What can be kept: written and read back, merged, and never mixed up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeai import modelfile
from edgeai.errors import DataError, ExistsError, QuantizationError
from edgeai.quantization.calibration import Calibration, model_digest
from edgeai.quantization.observers import observe
from edgeai.quantization.ranges import range_of
from edgeai.quantization.statistics import Statistics
from edgeai.samples import Samples

_BODY = "g (float[n, 4] x) => (float[n, 3] y) { h = MatMul(x, W) y = Relu(h) }"
_WEIGHT = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
_ROWS = np.random.default_rng(1).standard_normal((40, 4)).astype(np.float32)


def _calibration(write: Callable[..., Any], rows: np.ndarray, **weights: np.ndarray) -> Calibration:
    artifact = write(_BODY, **{"W": _WEIGHT, **weights})
    watch = {"x": -1, "h": None, "y": None}
    return observe(modelfile.load(artifact.path), watch, artifact.signature, Samples.from_rows({"x": rows}))


def _facts(seen: Statistics) -> tuple[Any, ...]:
    histogram = seen.histogram
    return (histogram.exponent, histogram.zeros, histogram.marks, histogram.low, histogram.high, seen.feeds)


def test_what_is_read_is_what_was_written(write: Callable[..., Any], tmp_path: Path) -> None:
    calibration = _calibration(write, _ROWS)
    calibration.save(tmp_path / "c.npz")
    with pytest.raises(ExistsError):
        calibration.save(tmp_path / "c.npz")
    read = Calibration.load(tmp_path / "c.npz")
    assert (read.model, read.feeds, read.digest) == (calibration.model, calibration.feeds, calibration.digest)
    assert list(read.tensors) == ["x", "h", "y"]
    for name, seen in calibration.tensors.items():
        twin = read.tensors[name]
        assert _facts(twin) == _facts(seen) and twin.average == seen.average
        np.testing.assert_array_equal(twin.histogram.counts, seen.histogram.counts)
    channels, twin_channels = calibration.tensors["x"].channels, read.tensors["x"].channels
    assert channels is not None and twin_channels is not None and read.tensors["h"].channels is None
    np.testing.assert_array_equal(channels.mean, twin_channels.mean)
    np.testing.assert_array_equal(channels.largest, twin_channels.largest)


def test_parts_merge_into_the_whole_in_any_grouping(write: Callable[..., Any]) -> None:
    parts = [_calibration(write, rows) for rows in np.split(_ROWS, 4)]
    whole = _calibration(write, _ROWS)
    left = parts[0].merge(parts[1]).merge(parts[2]).merge(parts[3])
    right = parts[0].merge(parts[1].merge(parts[2].merge(parts[3])))
    for merged in (left, right):
        assert (merged.feeds, merged.digest, merged.is_complete) == (whole.feeds, whole.digest, True)
        for name, seen in whole.tensors.items():
            twin = merged.tensors[name]
            assert _facts(twin) == _facts(seen)
            assert twin.average == pytest.approx(seen.average)
            assert range_of(twin, "percentile") == range_of(seen, "percentile")
        found, expected = merged.tensors["x"].channels, whole.tensors["x"].channels
        assert found is not None and expected is not None
        np.testing.assert_allclose(found.mean, expected.mean)


def test_what_does_not_belong_together_is_refused(write: Callable[..., Any]) -> None:
    calibration = _calibration(write, _ROWS[:4])
    with pytest.raises(QuantizationError, match="two different models"):
        calibration.merge(_calibration(write, _ROWS[4:], W=_WEIGHT * 2))
    half = Calibration(calibration.model, (*calibration.feeds, "more"), calibration.tensors)
    with pytest.raises(QuantizationError, match="interrupted calibration cannot be merged"):
        calibration.merge(half)


@pytest.mark.parametrize("damage", [b"", b"no archive", "format", "counts", "header"])
def test_a_damaged_file_is_named(write: Callable[..., Any], tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "c.npz"
    _calibration(write, _ROWS[:2]).save(path)
    if isinstance(damage, bytes):
        path.write_bytes(damage)
    else:
        arrays = dict(np.load(path))
        if damage == "format":
            arrays["header"] = np.frombuffer(
                bytes(arrays["header"]).replace(b"calibration 1", b"calibration 0"), np.uint8
            )
        elif damage == "counts":
            arrays["counts"] = arrays["counts"][:, :10]
        else:
            del arrays["header"]
        with open(path, "wb") as stream:
            np.savez(stream, **arrays)
    with pytest.raises(DataError, match=r"c\.npz: not an? "):
        Calibration.load(path)


def test_the_digest_is_of_what_the_model_computes_wherever_its_weights_lie(
    write: Callable[..., Any], tmp_path: Path
) -> None:
    path = write(_BODY, W=_WEIGHT).path
    one = model_digest(ir.load(path))
    onnx.save(onnx.load(path), tmp_path / "apart.onnx", save_as_external_data=True, location="w", size_threshold=0)
    assert model_digest(ir.load(tmp_path / "apart.onnx")) == one
    assert model_digest(ir.load(write(_BODY, W=_WEIGHT * np.float32(1.5)).path)) != one
    assert model_digest(ir.load(write(_BODY.replace("Relu", "Tanh"), W=_WEIGHT).path)) != one
