"""optimum-onnx: its ORTQuantizer with the configurations that it offers for x86."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from helped import OPERATORS, bare
from onnx_runtime import session
from onnxruntime.quantization import CalibrationMethod
from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig, CalibrationConfig
from protocol import Feeds, serve

CONFIGURATIONS = {"avx2": AutoQuantizationConfig.avx2, "avx512": AutoQuantizationConfig.avx512}


class Rows:
    """Calibration samples as its reader wants them: without the batch axis, which it puts back as a list of one."""

    def __init__(self, feeds: Feeds) -> None:
        self._feeds = feeds

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for feed in self._feeds:
            yield {name: array[0] for name, array in feed.items()}


def static(source: Path, out: Path, calibration: Feeds, *, target: str) -> None:
    configuration = CONFIGURATIONS[target](is_static=True)
    with tempfile.TemporaryDirectory() as directory:
        quantizer = ORTQuantizer(source)
        # CalibrationConfig.minmax asks a datasets.Dataset for its name; nothing else of it would be used.
        observed = CalibrationConfig(
            dataset_name="", dataset_config_name="", dataset_split="", dataset_num_samples=len(calibration),
            method=CalibrationMethod.MinMax,
        )  # fmt: skip
        ranges = quantizer.fit(
            Rows(calibration), observed, onnx_augmented_model_name=os.path.join(directory, "augmented.onnx"),
            operators_to_quantize=configuration.operators_to_quantize,
        )  # fmt: skip
        _write(quantizer, configuration, out, directory, calibration_tensors_range=ranges)


def dynamic(source: Path, out: Path, calibration: Feeds, *, target: str, help: bool = False) -> None:  # noqa: ARG001
    """It takes no samples; with `help` past what ONNX Runtime's quantizer below it fails on."""
    operators = OPERATORS if help else None
    configuration = CONFIGURATIONS[target](is_static=False, operators_to_quantize=operators)
    with tempfile.TemporaryDirectory() as directory, bare(source) if help else nullcontext(source) as ready:
        _write(ORTQuantizer(ready), configuration, out, directory)


def _write(quantizer: ORTQuantizer, configuration: Any, out: Path, directory: str, **more: Any) -> None:
    quantizer.quantize(quantization_config=configuration, save_dir=directory, file_suffix="quantized", **more)
    (written,) = Path(directory).glob("*_quantized.onnx")
    shutil.move(written, out)


if __name__ == "__main__":
    serve(
        recipes={"static": static, "dynamic": dynamic},
        forms={"session": session},
        packages=("optimum-onnx", "optimum", "onnxruntime", "onnx", "torch", "transformers"),
    )
