"""OpenVINO, and NNCF's post-training quantization of ONNX files and of OpenVINO's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nncf
import numpy as np
import onnx
import openvino
from protocol import Feed, Feeds, Run, serve


def quantize_onnx(source: Path, out: Path, calibration: Feeds, *, transformer: bool, smooth: bool = True) -> None:
    """ONNX to ONNX, by NNCF's defaults; `transformer` is the one hint that it asks for."""
    onnx.save(_quantized(onnx.load(source), calibration, transformer, smooth), out)


def quantize_openvino(source: Path, out: Path, calibration: Feeds, *, transformer: bool) -> None:
    """ONNX to OpenVINO's IR, by NNCF's defaults."""
    openvino.save_model(_quantized(openvino.Core().read_model(source), calibration, transformer, True), out)


def _quantized(model: Any, calibration: Feeds, transformer: bool, smooth: bool) -> Any:
    return nncf.quantize(
        model,
        nncf.Dataset(calibration),
        subset_size=len(calibration),
        model_type=nncf.ModelType.TRANSFORMER if transformer else None,
        advanced_parameters=None if smooth else nncf.AdvancedQuantizationParameters(smooth_quant_alpha=-1),
    )


def compiled(source: Path, *, precision: str) -> Run:
    """For the latency of one caller, in `f32` or `bf16`; integers stay what they are."""
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    opened = openvino.Core().compile_model(source, "CPU", settings)
    request = opened.create_infer_request()
    first = opened.outputs[0]

    def run(feed: Feed) -> np.ndarray:
        answer: np.ndarray = request.infer(feed, share_inputs=True, share_outputs=True)[first]
        return answer

    return run


if __name__ == "__main__":
    serve(
        recipes={"nncf-onnx": quantize_onnx, "nncf-openvino": quantize_openvino},
        forms={"compiled": compiled},
        packages=("openvino", "nncf", "onnx", "numpy"),
    )
