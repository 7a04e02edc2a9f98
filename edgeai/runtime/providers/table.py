"""What each execution provider is called, what can be set, and where it comes from: one row each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from edgeai.errors import UsageError
from edgeai.runtime.options import from_mapping
from edgeai.runtime.providers.desktop import CoremlOptions, CpuOptions, DirectmlOptions, WebgpuOptions
from edgeai.runtime.providers.intel import OpenvinoOptions
from edgeai.runtime.providers.nvidia import CudaOptions, TensorrtOptions, TensorrtRtxOptions
from edgeai.runtime.providers.qualcomm import QnnOptions


@dataclass(frozen=True)
class PluginOptions:
    """Options of a plug-in library that has no row of its own: passed on as they are, edgeai cannot check them."""

    values: Mapping[str, str] = field(default_factory=dict)

    def to_ort(self) -> dict[str, str]:
        return dict(self.values)


ProviderOptions = (
    CpuOptions
    | CudaOptions
    | TensorrtOptions
    | TensorrtRtxOptions
    | OpenvinoOptions
    | QnnOptions
    | CoremlOptions
    | DirectmlOptions
    | WebgpuOptions
    | PluginOptions
)


@dataclass(frozen=True)
class Provider:
    """`library` is the file beside ONNX Runtime's own that holds it, if it is not built in.

    `package` is the Python package that carries it as a plug-in, `path` a plug-in library that was named instead;
    `remedy` is how to get it. With `compiles`, it can write a model ahead as EPContext.
    """

    name: str
    ort_name: str
    options: type[ProviderOptions]
    library: str = ""
    package: str = ""
    path: str = ""
    remedy: str = ""
    compiles: bool = False


_CUDA = "pip install 'onnxruntime-gpu[cuda,cudnn]', on a machine with an NVIDIA GPU and its driver"
_ROWS: dict[str, Provider] = {
    row.name: row
    for row in (
        Provider("cpu", "CPUExecutionProvider", CpuOptions),
        Provider("cuda", "CUDAExecutionProvider", CudaOptions, "libonnxruntime_providers_cuda.so", remedy=_CUDA),
        Provider(
            "tensorrt", "TensorrtExecutionProvider", TensorrtOptions, "libonnxruntime_providers_tensorrt.so",
            remedy=f"{_CUDA}; and pip install 'tensorrt-cu13<11', with its libraries on LD_LIBRARY_PATH",
            compiles=True,
        ),
        Provider(
            "tensorrt-rtx", "NvTensorRTRTXExecutionProvider", TensorrtRtxOptions,
            package="onnxruntime_ep_nv_tensorrt_rtx", compiles=True,
            remedy="pip install onnxruntime-ep-nv-tensorrt-rtx-cu13, on a machine with an RTX GPU and its driver",
        ),
        Provider(
            "openvino", "OpenVINOExecutionProvider", OpenvinoOptions, "libonnxruntime_providers_openvino.so",
            package="onnxruntime_ep_openvino", compiles=True,
            remedy="pip install onnxruntime-openvino in an environment without another onnxruntime; or, on an Intel "
            "machine, pip install onnxruntime-ep-openvino beside this one",
        ),
        Provider(
            "qnn", "QNNExecutionProvider", QnnOptions, package="onnxruntime_qnn", compiles=True,
            remedy="pip install onnxruntime-qnn, on a machine with a Qualcomm NPU",
        ),
        Provider(
            "coreml", "CoreMLExecutionProvider", CoremlOptions,
            remedy="pip install onnxruntime, on macOS: its wheel has CoreML built in",
        ),
        Provider(
            "directml", "DmlExecutionProvider", DirectmlOptions,
            remedy="pip install onnxruntime-directml, on Windows with a DirectX 12 GPU",
        ),
        Provider(
            "webgpu", "WebGpuExecutionProvider", WebgpuOptions, package="onnxruntime_ep_webgpu",
            remedy="pip install onnxruntime-ep-webgpu, on a machine with a GPU that Vulkan, Metal or Direct3D 12 knows",
        ),
    )
}  # fmt: skip
PROVIDERS: Mapping[str, Provider] = MappingProxyType(_ROWS)


def short_name(name: str) -> str:
    """edgeai's name of a provider for ONNX Runtime's; a name that is not in the table stays as it is."""
    return next((row.name for row in _ROWS.values() if row.ort_name == name), name)


def add_plugin(ort_name: str, path: str) -> Provider:
    """The row of a plug-in library: that of the provider which it holds, or a new one under ONNX Runtime's name."""
    name = short_name(ort_name)
    return _ROWS.setdefault(name, Provider(name, ort_name, PluginOptions, path=path, compiles=True))


def parse_options(name: str, values: Mapping[str, object] | ProviderOptions | None = None) -> ProviderOptions:
    """A provider's options from names and values. Raises UsageError with the nearest name for an unknown one."""
    kind = PROVIDERS[name].options
    if isinstance(values, kind):
        return values
    if kind is PluginOptions and isinstance(values, Mapping):
        return PluginOptions({str(key): str(value) for key, value in values.items()})
    if values is None or isinstance(values, Mapping):
        return from_mapping(kind, values or {}, f"execution provider {name}")
    raise UsageError(f"execution provider {name} takes {kind.__name__}, got {type(values).__name__}")
