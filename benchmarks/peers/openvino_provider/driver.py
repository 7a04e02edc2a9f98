"""edgeai's session on the OpenVINO provider, which ONNX Runtime has in a wheel of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from protocol import Feeds, Run, serve

sys.path.append(str(Path(__file__).parents[3]))

import edgeai


def build(source: Path, out: Path, calibration: Feeds, *, seconds: float) -> None:
    """`edgeai build --target auto --time-budget`: the best of the CPU provider and this one, as a bundle."""
    from edgeai import building  # with PyTorch, which whoever only runs a file does without
    from edgeai.samples import Samples

    building.build(str(source), Samples.from_feeds(calibration), out=out, target="auto", seconds=seconds)


def bundle(source: Path) -> Run:
    """As it was built: on the provider and in the settings that were chosen."""
    return _run(edgeai.load(source))


def session(source: Path, *, precision: str = "f32") -> Run:
    """For the latency of one caller, what is not integer in `f32` or `bf16`."""
    properties = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    options = {
        "device_type": "CPU",
        "precision": "ACCURACY",
        "load_config": json.dumps({"CPU": properties}),
    }
    return _run(edgeai.load(source, ep="openvino", options={"openvino": options}))


def _run(opened: edgeai.Session) -> Run:
    first = opened.signature.output_names[0]
    return lambda feed: opened.run(feed)[first]


if __name__ == "__main__":
    serve(
        recipes={"build": build},
        forms={"session": session, "bundle": bundle},
        packages=("onnxruntime-openvino", "numpy"),
    )
