"""ONNX Runtime with its defaults, and its own quantizers."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from helped import OPERATORS, bare
from onnx_runtime import session
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from protocol import Feed, Feeds, serve


class Reader(CalibrationDataReader):
    def __init__(self, feeds: Feeds) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)


def static(source: Path, out: Path, calibration: Feeds) -> None:
    """`quantize_static` with its defaults: QDQ, minimum and maximum, a scale for each tensor."""
    quantize_static(source, out, Reader(calibration))


def tuned(source: Path, out: Path, calibration: Feeds, *, method: str) -> None:
    """What its documentation advises for x86: pre-processed, a scale for each channel, one bit less for AVX2."""
    with prepared(source) as ready:
        quantize_static(
            ready,
            out,
            Reader(calibration),
            per_channel=True,
            reduce_range=True,
            calibrate_method=CalibrationMethod[method],
        )


def dynamic(source: Path, out: Path, calibration: Feeds, *, help: bool = False) -> None:  # noqa: ARG001
    """`quantize_dynamic` with its defaults, which takes no samples; with `help` past what it fails on."""
    if not help:
        quantize_dynamic(source, out)
        return
    with bare(source) as ready:
        quantize_dynamic(ready, out, op_types_to_quantize=OPERATORS)


@contextlib.contextmanager
def prepared(source: Path) -> Iterator[Path]:
    """Through `quant_pre_process`, which its documentation asks for; without symbolic shapes where those fail."""
    with tempfile.TemporaryDirectory() as directory:
        ready = Path(directory, "prepared.onnx")
        try:
            quant_pre_process(source, ready)
        except Exception:  # it raises whatever comes up
            quant_pre_process(source, ready, skip_symbolic_shape=True)
        yield ready


if __name__ == "__main__":
    serve(
        recipes={"static": static, "tuned": tuned, "dynamic": dynamic},
        forms={"session": session},
        packages=("onnxruntime", "onnx", "numpy"),
    )
