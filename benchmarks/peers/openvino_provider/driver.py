"""edgeai's session on the OpenVINO provider, which ONNX Runtime has in a wheel of its own."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from protocol import Run, serve

sys.path.append(str(Path(__file__).parents[3]))

import edgeai


def session(source: Path, *, precision: str = "f32") -> Run:
    """For the latency of one caller, what is not integer in `f32` or `bf16`.

    The provider would take eight threads on any machine.
    """
    properties = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    options = {
        "device_type": "CPU",
        "precision": "ACCURACY",
        "num_of_threads": len(os.sched_getaffinity(0)),
        "load_config": json.dumps({"CPU": properties}),
    }
    opened = edgeai.load(source, ep="openvino", options={"openvino": options})
    first = opened.signature.output_names[0]
    return lambda feed: opened.run(feed)[first]


if __name__ == "__main__":
    serve(recipes={}, forms={"session": session}, packages=("onnxruntime-openvino", "numpy"))
