"""Options of the OpenVINO provider.

Source: onnxruntime.ai/docs/execution-providers/OpenVINO-ExecutionProvider; each key was found in the binary of
onnxruntime-openvino 1.24.1.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Literal

from edgeai.errors import UsageError
from edgeai.runtime.options import option, provider_values, refuse_below


@dataclass(frozen=True)
class OpenvinoOptions:
    """Intel CPUs, GPUs and NPUs; its CPU device also runs on other x86 CPUs. None keeps OpenVINO's default.

    - `device_type`: CPU, GPU, GPU.1, NPU, or several: AUTO:GPU,CPU, HETERO:GPU,CPU, MULTI:GPU,CPU.
    - `precision`: what the device computes in; ACCURACY keeps the model's own.
    - `num_of_threads`: of the CPU device; without it the session's `threads` (OpenVINO alone would take 8).
    - `num_streams`: runs that go on at once, 1 by default, which is best for latency.
    - `cache_dir`: a directory for compiled models, which are code: keep it private.
    - `load_config`: JSON of OpenVINO's own properties by device, such as {"CPU": {"NUM_STREAMS": "1"}}.
    - `disable_dynamic_shapes`: compiles each new shape anew as a static model.
    - `reshape_input`: bounds of symbolic axes for an NPU, `x[1..8,3]`.
    - `layout`: `x[NCHW]`. `enable_qdq_optimizer`: for QDQ models on an NPU.
    - `model_priority`: of several models on one device.
    """

    device_type: str | None = option("device_type")
    precision: Literal["FP32", "FP16", "ACCURACY"] | None = option("precision")
    num_of_threads: int | None = option("num_of_threads")
    num_streams: int | None = option("num_streams")
    cache_dir: str | None = option("cache_dir")
    load_config: str | None = option("load_config")
    disable_dynamic_shapes: bool | None = option("disable_dynamic_shapes")
    reshape_input: str | None = option("reshape_input")
    layout: str | None = option("layout")
    enable_qdq_optimizer: bool | None = option("enable_qdq_optimizer")
    model_priority: Literal["LOW", "MEDIUM", "HIGH", "DEFAULT"] | None = option("model_priority")

    def __post_init__(self) -> None:
        refuse_below("openvino: num_of_threads", 1, self.num_of_threads)
        refuse_below("openvino: num_streams", 1, self.num_streams)
        if self.load_config is not None:
            try:
                properties = json.loads(self.load_config)
            except ValueError as error:
                raise UsageError(f"openvino: load_config is not JSON: {error}") from error
            if not isinstance(properties, dict) or not all(isinstance(one, dict) for one in properties.values()):
                raise UsageError("openvino: load_config must be a JSON object: a device, then its properties")

    def within(self, *, threads: int, bfloat16: bool) -> OpenvinoOptions:
        """With what the session's settings say of the CPU device; what stands here already has the last word."""
        if self.device_type not in (None, "CPU"):
            return self
        properties = json.loads(self.load_config or "{}")
        if bfloat16:
            properties["CPU"] = {"INFERENCE_PRECISION_HINT": "bf16", **properties.get("CPU", {})}
        return dataclasses.replace(
            self,
            num_of_threads=self.num_of_threads or threads,
            load_config=json.dumps(properties) if properties else None,
        )

    def to_ort(self) -> dict[str, str]:
        return provider_values(self, yes="True", no="False")
