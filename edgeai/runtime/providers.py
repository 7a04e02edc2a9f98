"""Execution providers: what each is called, what can be set, and whether it runs on this machine.

The options are the documented ones (onnxruntime.ai/docs/execution-providers); the rest keep ONNX Runtime's defaults.
"""

from __future__ import annotations

import contextlib
import io
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgeai.errors import ProviderError, UsageError
from edgeai.ort import onnxruntime
from edgeai.runtime.options import from_mapping, nearest, provider_values, refuse_below
from edgeai.runtime.preflight import missing_libraries

AUTO = "auto"
_DRIVER = "libcuda.so.1"
_stdout = threading.Lock()  # sys.stdout is one for all threads


def _option(key: str, default: Any = None) -> Any:
    return field(default=default, metadata={"key": key})


@dataclass(frozen=True)
class CpuOptions:
    """The CPU provider has none of its own: threads, spinning and the arena are session settings."""


@dataclass(frozen=True)
class CudaOptions:
    """NVIDIA GPUs through CUDA and cuDNN. None keeps ONNX Runtime's default.

    `gpu_mem_limit_bytes` bounds the arena. The convolution search is HEURISTIC here, because EXHAUSTIVE (ONNX
    Runtime's default) makes the first run of every new shape slow. `use_tf32` trades accuracy for speed.
    """

    device_id: int = _option("device_id", 0)
    gpu_mem_limit_bytes: int | None = _option("gpu_mem_limit")
    arena_extend_strategy: Literal["kNextPowerOfTwo", "kSameAsRequested"] | None = _option("arena_extend_strategy")
    cudnn_conv_algo_search: Literal["HEURISTIC", "EXHAUSTIVE", "DEFAULT"] = _option(
        "cudnn_conv_algo_search", "HEURISTIC"
    )
    cudnn_conv_use_max_workspace: bool | None = _option("cudnn_conv_use_max_workspace")
    use_tf32: bool | None = _option("use_tf32")
    prefer_nhwc: bool | None = _option("prefer_nhwc")

    def __post_init__(self) -> None:
        refuse_below("cuda: device_id", 0, self.device_id)
        refuse_below("cuda: gpu_mem_limit_bytes", 1, self.gpu_mem_limit_bytes)


@dataclass(frozen=True)
class TensorrtOptions:
    """NVIDIA GPUs through TensorRT. None keeps ONNX Runtime's default.

    `engine_cache_path` is a directory for built engines: they fit one model, GPU and TensorRT version, and are code,
    so keep it private. Profile shapes read `input:1x3x224x224,other:1x8`; give all three kinds or none.
    """

    device_id: int = _option("device_id", 0)
    workspace_bytes: int | None = _option("trt_max_workspace_size")
    fp16: bool | None = _option("trt_fp16_enable")
    int8: bool | None = _option("trt_int8_enable")
    engine_cache_path: str | None = _option("trt_engine_cache_path")
    timing_cache_path: str | None = _option("trt_timing_cache_path")
    builder_optimization_level: int | None = _option("trt_builder_optimization_level")
    min_subgraph_size: int | None = _option("trt_min_subgraph_size")
    profile_min_shapes: str | None = _option("trt_profile_min_shapes")
    profile_opt_shapes: str | None = _option("trt_profile_opt_shapes")
    profile_max_shapes: str | None = _option("trt_profile_max_shapes")

    def __post_init__(self) -> None:
        refuse_below("tensorrt: device_id", 0, self.device_id)
        refuse_below("tensorrt: workspace_bytes", 1, self.workspace_bytes)
        refuse_below("tensorrt: min_subgraph_size", 1, self.min_subgraph_size)
        shapes = (self.profile_min_shapes, self.profile_opt_shapes, self.profile_max_shapes)
        if any(shapes) and not all(shapes):
            raise UsageError("tensorrt: profile_min_shapes, profile_opt_shapes and profile_max_shapes belong together")


ProviderOptions = CpuOptions | CudaOptions | TensorrtOptions


@dataclass(frozen=True)
class Provider:
    """`library` is the file that ONNX Runtime loads it from, if it is not built in; `remedy` is how to get it."""

    name: str
    ort_name: str
    options: type[ProviderOptions]
    library: str | None = None
    remedy: str = ""


PROVIDERS: Mapping[str, Provider] = {
    row.name: row
    for row in (
        Provider("cpu", "CPUExecutionProvider", CpuOptions),
        Provider(
            "cuda",
            "CUDAExecutionProvider",
            CudaOptions,
            "libonnxruntime_providers_cuda.so",
            "pip install 'onnxruntime-gpu[cuda,cudnn]', on a machine with an NVIDIA driver",
        ),
        Provider(
            "tensorrt",
            "TensorrtExecutionProvider",
            TensorrtOptions,
            "libonnxruntime_providers_tensorrt.so",
            "pip install 'onnxruntime-gpu[cuda,cudnn]' tensorrt-cu13, and put its libraries on LD_LIBRARY_PATH",
        ),
    )
}
_BY_ORT_NAME = {row.ort_name: row.name for row in PROVIDERS.values()}
_AUTO_ORDER = ("cuda", "cpu")  # TensorRT builds engines for minutes: only when asked for


def short_name(name: str) -> str:
    """edgeai's name of a provider for ONNX Runtime's; a name that is not in the table stays as it is."""
    return _BY_ORT_NAME.get(name, name)


def resolve(ep: str | Sequence[str]) -> tuple[str, ...]:
    """Short names in order of preference. ONNX Runtime's long names are accepted; "auto" is what loads here.

    Raises UsageError for an unknown name, a name given twice, or none.
    """
    if ep == AUTO:
        return (next(name for name in _AUTO_ORDER if reason(name) is None),)
    names = tuple(short_name(name) for name in ([ep] if isinstance(ep, str) else ep))
    for name in names:
        if name not in PROVIDERS:
            raise UsageError(f"there is no execution provider {name!r}", hint=nearest(name, (AUTO, *PROVIDERS)))
    if not names or len(set(names)) < len(names):
        raise UsageError(f"execution providers: {', '.join(names) or 'none'} given, each is needed once")
    return names


def available() -> dict[str, str | None]:
    """For each provider None if it can load on this machine, else the reason why not."""
    return {name: reason(name) for name in PROVIDERS}


def reason(name: str) -> str | None:
    """Why the provider cannot load here, in a few words; None if it can.

    That it loads does not say that its device answers: creating a session does.
    """
    provider = PROVIDERS[name]
    if provider.library is None:
        return None
    ort = onnxruntime()
    if provider.ort_name not in ort.get_available_providers():
        return "the installed onnxruntime is built without it"
    if not sys.platform.startswith("linux"):
        return None
    library = Path(str(ort.__file__)).parent / "capi" / provider.library
    missing = missing_libraries(library)
    if missing and _DRIVER not in missing:
        # NVIDIA's wheels put their libraries where only ONNX Runtime looks; it prints what it does not find.
        with _stdout, contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()
        missing = missing_libraries(library)
    return f"{', '.join(missing)} cannot be loaded" if missing else None


def refuse_unavailable(name: str) -> None:
    """Raise ProviderError, with the missing library and the command that mends it, unless the provider can load."""
    if why := reason(name):
        raise ProviderError(f"execution provider {name} does not run here: {why}", hint=PROVIDERS[name].remedy)


def parse_options(name: str, values: Mapping[str, object] | ProviderOptions | None = None) -> ProviderOptions:
    """A provider's options from names and values. Raises UsageError with the nearest name for an unknown one."""
    kind = PROVIDERS[name].options
    if isinstance(values, kind):
        return values
    if values is None or isinstance(values, Mapping):
        return from_mapping(kind, values or {}, f"execution provider {name}")
    raise UsageError(f"execution provider {name} takes {kind.__name__}, got {type(values).__name__}")


def ort_options(options: ProviderOptions) -> dict[str, str]:
    """The same as ONNX Runtime's keys and texts."""
    values = provider_values(options)
    for cache in ("engine", "timing"):
        if f"trt_{cache}_cache_path" in values:
            values[f"trt_{cache}_cache_enable"] = "True"
    return values
