"""Options of the QNN provider.

Source: onnxruntime.ai/docs/execution-providers/QNN-ExecutionProvider; each key was found in the binary of
onnxruntime-qnn 2.7.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeai.errors import UsageError
from edgeai.runtime.options import option, provider_values, refuse_below


@dataclass(frozen=True)
class QnnOptions:
    """Qualcomm's NPU (htp), GPU and a reference CPU backend. None keeps the provider's default.

    It takes static shapes only, and the NPU wants a quantized model.

    - `backend_type` or `backend_path` (a library file): one of them; htp by default.
    - `htp_performance_mode`: power against speed. `vtcm_mb`: fast memory of the NPU, in MB, 0 for its default.
    - `htp_graph_finalization_optimization_mode`: 0..3, longer preparation for a faster graph.
    - `htp_arch`, `soc_model`, `device_id`: numbers from Qualcomm's documentation, to prepare for another chip.
    - `rpc_control_latency_us`: microseconds. `qnn_context_priority`: among contexts on one NPU.
    - `enable_htp_fp16_precision`: float32 models run in float16 (on by default).
    - `offload_graph_io_quantization`: the CPU quantizes inputs and dequantizes outputs.
    - `enable_htp_shared_memory_allocator`: inputs and outputs in memory that the NPU reads directly.
    - `enable_htp_spill_fill_buffer`: graphs of one context share their spill buffer.
    - `profiling_level`, `profiling_file_path`: QNN's own profile, a CSV file.
    """

    backend_type: Literal["htp", "gpu", "cpu", "saver", "ir"] | None = option("backend_type")
    backend_path: str | None = option("backend_path")
    device_id: int | None = option("device_id")
    htp_performance_mode: (
        Literal[
            "default", "burst", "balanced", "high_performance", "sustained_high_performance", "high_power_saver",
            "low_balanced", "low_power_saver", "power_saver", "extreme_power_saver",
        ] | None
    ) = option("htp_performance_mode")  # fmt: skip
    htp_graph_finalization_optimization_mode: Literal["0", "1", "2", "3"] | None = option(
        "htp_graph_finalization_optimization_mode"
    )
    htp_arch: int | None = option("htp_arch")
    soc_model: int | None = option("soc_model")
    vtcm_mb: int | None = option("vtcm_mb")
    rpc_control_latency_us: int | None = option("rpc_control_latency")
    qnn_context_priority: Literal["low", "normal", "normal_high", "high"] | None = option("qnn_context_priority")
    enable_htp_fp16_precision: bool | None = option("enable_htp_fp16_precision")
    offload_graph_io_quantization: bool | None = option("offload_graph_io_quantization")
    enable_htp_shared_memory_allocator: bool | None = option("enable_htp_shared_memory_allocator")
    enable_htp_spill_fill_buffer: bool | None = option("enable_htp_spill_fill_buffer")
    profiling_level: Literal["off", "basic", "detailed"] | None = option("profiling_level")
    profiling_file_path: str | None = option("profiling_file_path")

    def __post_init__(self) -> None:
        if self.backend_type and self.backend_path:
            raise UsageError("qnn: backend_type and backend_path exclude each other")
        for name in ("device_id", "htp_arch", "soc_model", "vtcm_mb", "rpc_control_latency_us"):
            refuse_below(f"qnn: {name}", 0, getattr(self, name))

    def to_ort(self) -> dict[str, str]:
        return provider_values(self)
