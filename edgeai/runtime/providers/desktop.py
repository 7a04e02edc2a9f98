"""Options of the providers that come with an operating system or run on any GPU: CPU, CoreML, DirectML, WebGPU.

Sources: onnxruntime.ai/docs/execution-providers, pages CoreML, DirectML and WebGPU; WebGPU's keys were found in the
binary of onnxruntime-ep-webgpu 0.4.0. CoreML and DirectML exist for macOS and Windows alone and were not run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeai.runtime.options import option, provider_values, refuse_below

BufferCache = Literal["disabled", "lazyRelease", "simple", "bucket"]


@dataclass(frozen=True)
class CpuOptions:
    """The CPU provider has none of its own: threads, spinning and the arena are session settings."""

    def to_ort(self) -> dict[str, str]:
        return {}


@dataclass(frozen=True)
class CoremlOptions:
    """Apple's CPU, GPU and Neural Engine. None keeps ONNX Runtime's default.

    - `model_format`: MLProgram (Core ML 5 and later) knows more operators than NeuralNetwork, the default.
    - `compute_units`: which of them may be used. CPUOnly alone computes float32 in float32.
    - `require_static_input_shapes`: leaves nodes with symbolic axes to the CPU.
    - `enable_on_subgraphs`: also inside If, Loop and Scan.
    - `specialization_strategy`: FastPrediction takes longer to load.
    - `allow_low_precision_accumulation_on_gpu`: sums in float16.
    - `model_cache_directory`: where converted models are kept. `profile_compute_plan`: logs which unit runs what.
    """

    model_format: Literal["MLProgram", "NeuralNetwork"] | None = option("ModelFormat")
    compute_units: Literal["ALL", "CPUOnly", "CPUAndGPU", "CPUAndNeuralEngine"] | None = option("MLComputeUnits")
    require_static_input_shapes: bool | None = option("RequireStaticInputShapes")
    enable_on_subgraphs: bool | None = option("EnableOnSubgraphs")
    specialization_strategy: Literal["Default", "FastPrediction"] | None = option("SpecializationStrategy")
    allow_low_precision_accumulation_on_gpu: bool | None = option("AllowLowPrecisionAccumulationOnGPU")
    model_cache_directory: str | None = option("ModelCacheDirectory")
    profile_compute_plan: bool | None = option("ProfileComputePlan")

    def to_ort(self) -> dict[str, str]:
        return provider_values(self)


@dataclass(frozen=True)
class DirectmlOptions:
    """Any DirectX 12 GPU on Windows. None keeps ONNX Runtime's default.

    `device_id` counts adapters as DXGI does, 0 is the primary display's; or `device_filter` and
    `performance_preference` choose. `disable_metacommands` avoids the driver's own kernels.
    """

    device_id: int | None = option("device_id")
    device_filter: Literal["gpu", "npu", "any"] | None = option("device_filter")
    performance_preference: Literal["default", "high_performance", "minimum_power"] | None = option(
        "performance_preference"
    )
    disable_metacommands: bool | None = option("disable_metacommands")

    def __post_init__(self) -> None:
        refuse_below("directml: device_id", 0, self.device_id)

    def to_ort(self) -> dict[str, str]:
        return provider_values(self, yes="true", no="false")


@dataclass(frozen=True)
class WebgpuOptions:
    """Any GPU through Dawn: Direct3D 12, Vulkan or Metal; a plug-in. None keeps its default.

    - `device_id`: sessions with one number share a device and its buffers.
    - `dawn_backend_type`, `power_preference`: which graphics API and which GPU, where there are several.
    - `preferred_layout`: of convolutions.
    - `enable_int64`: 64-bit integers on the GPU, where it has them.
    - `force_cpu_node_names`: names with line breaks between them.
    - `validation_mode`: how much Dawn checks. `preserve_device`: keeps the device after the last session.
    - `max_storage_buffer_binding_size_bytes`: in bytes.
    - `*_buffer_cache_mode`: how freed buffers are kept; bucket is for stable shapes.
    """

    device_id: int | None = option("deviceId")
    dawn_backend_type: Literal["D3D12", "Vulkan"] | None = option("dawnBackendType")
    power_preference: Literal["high-performance", "low-power"] | None = option("powerPreference")
    preferred_layout: Literal["NCHW", "NHWC"] | None = option("preferredLayout")
    enable_int64: bool | None = option("enableInt64")
    force_cpu_node_names: str | None = option("forceCpuNodeNames")
    validation_mode: Literal["disabled", "wgpuOnly", "basic", "full"] | None = option("validationMode")
    preserve_device: bool | None = option("preserveDevice")
    max_storage_buffer_binding_size_bytes: int | None = option("maxStorageBufferBindingSize")
    storage_buffer_cache_mode: BufferCache | None = option("storageBufferCacheMode")
    uniform_buffer_cache_mode: BufferCache | None = option("uniformBufferCacheMode")
    query_resolve_buffer_cache_mode: BufferCache | None = option("queryResolveBufferCacheMode")
    default_buffer_cache_mode: BufferCache | None = option("defaultBufferCacheMode")

    def __post_init__(self) -> None:
        refuse_below("webgpu: device_id", 0, self.device_id)
        refuse_below("webgpu: max_storage_buffer_binding_size_bytes", 1, self.max_storage_buffer_binding_size_bytes)

    def to_ort(self) -> dict[str, str]:
        return provider_values(self)
