"""Options of the providers for NVIDIA GPUs: CUDA, TensorRT, and TensorRT for RTX.

Sources: onnxruntime.ai/docs/execution-providers, pages CUDA, TensorRT and TensorRTRTX; each key was found in the
binaries of onnxruntime-gpu 1.31.1 and onnxruntime-ep-nv-tensorrt-rtx 0.5.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeai.errors import UsageError
from edgeai.runtime.options import option, provider_values, refuse_below


@dataclass(frozen=True)
class CudaOptions:
    """CUDA and cuDNN. None keeps ONNX Runtime's default, except where this says otherwise.

    - `device_id`: which GPU, counted from 0 in CUDA's order.
    - `gpu_mem_limit_bytes`: upper bound of the arena, in bytes; what CUDA itself takes comes on top.
    - `arena_extend_strategy`: kSameAsRequested wastes less on small GPUs.
    - `cudnn_conv_algo_search`: EXHAUSTIVE (ONNX Runtime's default) times every algorithm at the first run of every
      new shape. None is HEURISTIC for a model with symbolic axes, EXHAUSTIVE for one without.
    - `cudnn_conv_use_max_workspace`: false bounds a convolution's scratch memory to 32 MB.
    - `cudnn_conv1d_pad_to_nc1d`: pads (N, C, L) to (N, C, 1, L) instead of (N, C, L, 1).
    - `enable_cuda_graph`: `run_bound` on buffers of the GPU replays one recorded launch; only for a model without
      symbolic axes, wholly on the GPU. Other runs are never recorded.
    - `use_tf32`: float32 products keep 10 bits of mantissa (on by default on Ampere and later).
    - `prefer_nhwc`: convolutions with channels last.
    - `fuse_conv_bias`: cuDNN's fused kernels.
    - `sdpa_kernel`: bit mask of the attention kernels that may be used; 0 is the default choice.
    - `enable_skip_layer_norm_strict_mode`: sums in float32, slower and more accurate.
    - `do_copy_in_default_stream`: false copies in streams of their own, with races that are ONNX Runtime's.
    - `use_ep_level_unified_stream`: one stream for the whole session.
    - `tunable_op_*`: searches kernels at run time, each for at most `tunable_op_max_tuning_duration_ms` milliseconds.
    """

    device_id: int = option("device_id", 0)
    gpu_mem_limit_bytes: int | None = option("gpu_mem_limit")
    arena_extend_strategy: Literal["kNextPowerOfTwo", "kSameAsRequested"] | None = option("arena_extend_strategy")
    cudnn_conv_algo_search: Literal["HEURISTIC", "EXHAUSTIVE", "DEFAULT"] | None = option("cudnn_conv_algo_search")
    cudnn_conv_use_max_workspace: bool | None = option("cudnn_conv_use_max_workspace")
    cudnn_conv1d_pad_to_nc1d: bool | None = option("cudnn_conv1d_pad_to_nc1d")
    enable_cuda_graph: bool | None = option("enable_cuda_graph")
    use_tf32: bool | None = option("use_tf32")
    prefer_nhwc: bool | None = option("prefer_nhwc")
    fuse_conv_bias: bool | None = option("fuse_conv_bias")
    sdpa_kernel: int | None = option("sdpa_kernel")
    enable_skip_layer_norm_strict_mode: bool | None = option("enable_skip_layer_norm_strict_mode")
    do_copy_in_default_stream: bool | None = option("do_copy_in_default_stream")
    use_ep_level_unified_stream: bool | None = option("use_ep_level_unified_stream")
    tunable_op_enable: bool | None = option("tunable_op_enable")
    tunable_op_tuning_enable: bool | None = option("tunable_op_tuning_enable")
    tunable_op_max_tuning_duration_ms: int | None = option("tunable_op_max_tuning_duration_ms")

    def __post_init__(self) -> None:
        refuse_below("cuda: device_id", 0, self.device_id)
        refuse_below("cuda: gpu_mem_limit_bytes", 1, self.gpu_mem_limit_bytes)
        refuse_below("cuda: tunable_op_max_tuning_duration_ms", 0, self.tunable_op_max_tuning_duration_ms)

    def to_ort(self) -> dict[str, str]:
        return provider_values(self, yes="True", no="False")


@dataclass(frozen=True)
class TensorrtOptions:
    """TensorRT, which builds an engine for the GPU that it finds. None keeps ONNX Runtime's default.

    - `device_id`: which GPU, counted from 0 in CUDA's order.
    - `engine_cache`: keep built engines and timings, each under a key of all that they depend on, in a directory that
      only this user can read; `engine_cache_path` is a place for it other than edgeai's cache directory.
    - `workspace_bytes`: scratch memory that a tactic may take, in bytes.
    - `fp16`, `bf16`, `int8`: let TensorRT lower float32 layers. TensorRT 11 takes precision from the graph alone and
      ignores them: quantize the model instead.
    - `builder_optimization_level`: 0..5, longer builds for faster engines; TensorRT's default is 3.
    - `min_subgraph_size`: nodes; smaller parts of the graph stay with the next provider.
    - `profile_min_shapes`, `profile_opt_shapes`, `profile_max_shapes`: `x:1x3x224x224,y:1x8`, all three or none. None
      takes them from the ranges that the model declares; without ranges every new shape builds another engine.
    - `cuda_graph`: `run_bound` on buffers of the GPU replays one recorded launch, as for CUDA.
    - `timing_cache`: reuse of kernel timings between builds on the same kind of GPU.
    - `engine_hw_compatible`: an engine that runs on all GPUs from Ampere on, somewhat slower.
    - `context_memory_sharing`: the parts of one model share scratch memory.
    - `layer_norm_fp32_fallback`: LayerNormalization in float32 within a float16 network.
    - `op_types_to_exclude`: names with commas between them that stay with the next provider.
    - `auxiliary_streams`: -1 leaves it to TensorRT, 0 uses least memory.
    - `sparsity`: uses 2:4 sparse weights where they are.
    - `dla_core`: the deep learning accelerator of a Jetson, None for the GPU.
    """

    device_id: int = option("device_id", 0)
    engine_cache: bool = True
    engine_cache_path: str | None = None
    workspace_bytes: int | None = option("trt_max_workspace_size")
    fp16: bool | None = option("trt_fp16_enable")
    bf16: bool | None = option("trt_bf16_enable")
    int8: bool | None = option("trt_int8_enable")
    builder_optimization_level: int | None = option("trt_builder_optimization_level")
    min_subgraph_size: int | None = option("trt_min_subgraph_size")
    profile_min_shapes: str | None = option("trt_profile_min_shapes")
    profile_opt_shapes: str | None = option("trt_profile_opt_shapes")
    profile_max_shapes: str | None = option("trt_profile_max_shapes")
    cuda_graph: bool | None = option("trt_cuda_graph_enable")
    timing_cache: bool = True
    engine_hw_compatible: bool | None = option("trt_engine_hw_compatible")
    context_memory_sharing: bool | None = option("trt_context_memory_sharing_enable")
    layer_norm_fp32_fallback: bool | None = option("trt_layer_norm_fp32_fallback")
    op_types_to_exclude: str | None = option("trt_op_types_to_exclude")
    auxiliary_streams: int | None = option("trt_auxiliary_streams")
    sparsity: bool | None = option("trt_sparsity_enable")
    dla_core: int | None = option("trt_dla_core")

    def __post_init__(self) -> None:
        refuse_below("tensorrt: device_id", 0, self.device_id)
        refuse_below("tensorrt: workspace_bytes", 1, self.workspace_bytes)
        refuse_below("tensorrt: min_subgraph_size", 1, self.min_subgraph_size)
        refuse_below("tensorrt: builder_optimization_level", 0, self.builder_optimization_level)
        refuse_below("tensorrt: auxiliary_streams", -1, self.auxiliary_streams)
        refuse_below("tensorrt: dla_core", 0, self.dla_core)
        _refuse_half_a_profile("tensorrt", self.profile_min_shapes, self.profile_opt_shapes, self.profile_max_shapes)

    def to_ort(self) -> dict[str, str]:
        values = provider_values(self, yes="True", no="False")
        return values if self.dla_core is None else values | {"trt_dla_enable": "True"}


@dataclass(frozen=True)
class TensorrtRtxOptions:
    """TensorRT for RTX, a plug-in with its own runtime for GPUs from Ampere on. None keeps its default.

    - `workspace_bytes`, `shared_memory_bytes`: in bytes, 0 lets TensorRT choose.
    - `profile_min_shapes`, `profile_opt_shapes`, `profile_max_shapes`: written and derived as for TensorRT;
      `multi_profile` allows several, given as further shapes of the same input.
    - `runtime_cache_path`: a directory for compiled kernels, which are code: keep it private.

    CUDA_VISIBLE_DEVICES chooses the GPU.
    """

    workspace_bytes: int | None = option("nv_max_workspace_size")
    shared_memory_bytes: int | None = option("nv_max_shared_mem_size")
    profile_min_shapes: str | None = option("nv_profile_min_shapes")
    profile_opt_shapes: str | None = option("nv_profile_opt_shapes")
    profile_max_shapes: str | None = option("nv_profile_max_shapes")
    multi_profile: bool | None = option("nv_multi_profile_enable")
    runtime_cache_path: str | None = option("nv_runtime_cache_path")

    def __post_init__(self) -> None:
        refuse_below("tensorrt-rtx: workspace_bytes", 0, self.workspace_bytes)
        refuse_below("tensorrt-rtx: shared_memory_bytes", 0, self.shared_memory_bytes)
        shapes = (self.profile_min_shapes, self.profile_opt_shapes, self.profile_max_shapes)
        _refuse_half_a_profile("tensorrt-rtx", *shapes)

    def to_ort(self) -> dict[str, str]:
        return provider_values(self)


def _refuse_half_a_profile(name: str, *shapes: str | None) -> None:
    if any(shapes) and not all(shapes):
        raise UsageError(f"{name}: profile_min_shapes, profile_opt_shapes and profile_max_shapes belong together")
