"""What code that an execution provider has compiled depends on, besides the model: versions and the kind of device."""

from __future__ import annotations

import importlib.metadata

from edgeai.ort import onnxruntime
from edgeai.runtime.engine_cache import cuda_environment
from edgeai.runtime.providers import PROVIDERS, OpenvinoOptions, ProviderOptions, QnnOptions
from edgeai.runtime.providers.wheels import installed_wheels


def environment_of(provider: str, options: ProviderOptions) -> dict[str, str]:
    """What must be the same where code runs that `provider` (a short name) has compiled with `options`.

    The kind of device and the versions, but not the very device and NVIDIA's driver. A plug-in must be loaded: only
    then ONNX Runtime knows its version and its devices, of which the first is what it compiles for.
    """
    ort, row = onnxruntime(), PROVIDERS[provider]
    found = {"onnxruntime": str(ort.__version__)}
    if provider in ("tensorrt", "tensorrt-rtx"):
        gpu = cuda_environment(getattr(options, "device_id", None) or 0)
        found = {key: value for key, value in gpu.items() if key not in ("gpu_uuid", "driver")}
    if isinstance(options, OpenvinoOptions):
        found["device"] = options.device_type or "CPU"
    elif isinstance(options, QnnOptions):
        found["device"] = options.backend_path or options.backend_type or "htp"
    for device in [one for one in ort.get_ep_devices() if one.ep_name == row.ort_name][:1]:
        chip = device.device
        found["provider version"] = device.ep_metadata.get("version", "")
        found["hardware"] = f"{chip.type.name} {chip.vendor_id:04x}:{chip.device_id:04x}"
    if row.package:
        found["provider package"] = _package(row.package)
    return found


def _package(name: str) -> str:
    """The plug-in's package and its version, or the wheel that has the provider built in."""
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return ", ".join(f"{wheel.name} {wheel.version}" for wheel in installed_wheels())
