"""What NVIDIA's driver says about this machine, asked through its own library: versions, devices, why there is none.

Source: CUDA Driver API reference (docs.nvidia.com/cuda/cuda-driver-api): cuDriverGetVersion, cuInit, cuDeviceGet,
cuDeviceGetName, cuDeviceGetUuid_v2, cuDeviceGetAttribute. `cuInit` must not be called before a fork that goes on to
use CUDA: only `devices` and `why_no_device` call it.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any, NamedTuple

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_REASONS = {
    100: "the driver sees no CUDA device",
    35: "the driver is older than the CUDA runtime",
    803: "the driver's user and kernel parts are of different versions: restart the machine",
    804: "the driver's compatibility package does not know this GPU",
    999: "the driver fails for an unknown reason: see dmesg",
}


class Device(NamedTuple):
    """`capability` is the compute capability, such as `8.7`."""

    name: str
    uuid: str
    capability: str


def driver() -> Any | None:
    """The driver's library; None on a machine that has none."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def cuda_version(library: Any) -> str:
    """The newest CUDA that the driver supports, such as `13.0`."""
    version = ctypes.c_int(0)
    library.cuDriverGetVersion(ctypes.byref(version))
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def driver_version(root: Path = Path("/")) -> str:
    """The driver's own version, such as `580.95.05`; empty where the kernel does not say."""
    try:
        return (root / "sys/module/nvidia/version").read_text().strip()
    except OSError:
        return ""


def devices(library: Any) -> tuple[Device, ...]:
    """The GPUs that CUDA may use in this process, in its order; none if it refuses to start."""
    count = ctypes.c_int(0)
    if library.cuInit(0) or library.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    return tuple(_device(library, index) for index in range(count.value))


def why_no_device(library: Any | None, index: int) -> str:
    """Why CUDA has no device number `index` here; empty if it has."""
    if library is None:
        return "there is no NVIDIA driver (libcuda.so.1)"
    if code := library.cuInit(0):
        supported = f"it supports CUDA {cuda_version(library)}"
        return f"{_REASONS.get(code, f'the driver answers with error {code}')}; {supported}"
    found = devices(library)
    if index < len(found):
        return ""
    listed = ", ".join(f"{number}: {device.name}" for number, device in enumerate(found)) or "none"
    return f"there is no device {index} (devices: {listed})"


def _device(library: Any, index: int) -> Device:
    handle, name, uuid = ctypes.c_int(0), ctypes.create_string_buffer(256), ctypes.create_string_buffer(16)
    major, minor = ctypes.c_int(0), ctypes.c_int(0)
    library.cuDeviceGet(ctypes.byref(handle), index)
    library.cuDeviceGetName(name, len(name), handle)
    library.cuDeviceGetUuid_v2(uuid, handle)
    library.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, handle)
    library.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, handle)
    return Device(name.value.decode(errors="replace"), uuid.raw.hex(), f"{major.value}.{minor.value}")
