"""Which of ONNX Runtime's wheels are installed: they share one directory, and the second destroys the first."""

from __future__ import annotations

import importlib.metadata
import sys
from dataclasses import dataclass
from functools import cache

# Distributions that bring the `onnxruntime` package (pypi.org); plug-ins have packages of their own.
_NAMES = (
    "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-qnn",
    "onnxruntime-rocm", "onnxruntime-migraphx", "onnxruntime-training", "onnxruntime-silicon", "onnxruntime-webgpu",
    "onnxruntime-cann", "ort-nightly", "ort-nightly-gpu",
)  # fmt: skip


@dataclass(frozen=True)
class Wheel:
    name: str
    version: str


def installed_wheels() -> tuple[Wheel, ...]:
    """The distributions that claim the `onnxruntime` package here. More than one is a fault."""
    return _installed(tuple(sys.path))


@cache
def _installed(path: tuple[str, ...]) -> tuple[Wheel, ...]:
    """For this `sys.path`: a wheel lists thousands of files, and every `ep="auto"` asks."""
    found = []
    for name in _NAMES:
        distribution = next(iter(importlib.metadata.distributions(name=name, path=list(path))), None)
        if distribution and any(file.parts[:1] == ("onnxruntime",) for file in distribution.files or ()):
            found.append(Wheel(name, distribution.version))
    return tuple(found)


def wheel_fault(wheels: tuple[Wheel, ...], imported: str) -> tuple[str, str] | None:
    """What is wrong with what is installed, and the command that mends it; None if nothing is.

    `imported` is the version that `onnxruntime` itself says.
    """
    names = " ".join(wheel.name for wheel in wheels)
    if len(wheels) > 1:
        keep = next((wheel.name for wheel in wheels if wheel.name != "onnxruntime"), wheels[0].name)
        listed = " and ".join(f"{wheel.name} {wheel.version}" for wheel in wheels)
        return (
            f"{listed} are installed over each other, so that neither is whole",
            f"pip uninstall -y {names} && pip install {keep}",
        )
    if wheels and wheels[0].version.split("+")[0] != imported.split("+")[0]:
        return (
            f"{names} {wheels[0].version} is installed, but onnxruntime {imported} is imported",
            f"pip install --force-reinstall --no-deps {names}=={wheels[0].version}",
        )
    return None
