"""edgeai's session on the OpenVINO provider, which ONNX Runtime has in a wheel of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from protocol import Run, serve

sys.path.append(str(Path(__file__).parents[3]))

import edgeai


def session(source: Path) -> Run:
    """For the latency of one caller; floats stay floats. The provider would take eight threads on any machine."""
    options = {
        "device_type": "CPU",
        "precision": "ACCURACY",
        "num_of_threads": len(os.sched_getaffinity(0)),
        "load_config": '{"CPU": {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}}',
    }
    opened = edgeai.load(source, ep="openvino", options={"openvino": options})
    first = opened.signature.output_names[0]
    return lambda feed: opened.run(feed)[first]


if __name__ == "__main__":
    serve(recipes={}, forms={"session": session}, packages=("onnxruntime-openvino", "numpy"))
