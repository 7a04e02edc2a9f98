"""Energy as the hardware counts it, with the counter named; nothing is estimated from a rated power.

RAPL counts whole CPU packages (Linux kernel docs, power/powercap), NVML a whole GPU
(nvmlDeviceGetTotalEnergyConsumption). Both include what the device draws when idle.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_POWERCAP = Path("/sys/class/powercap")
_GPU_PROVIDERS = frozenset({"cuda", "tensorrt"})


class Meter(Protocol):
    source: str

    def read(self) -> int | None:
        """Microjoules since any fixed moment; None if the counter cannot be read any more."""


@dataclass(frozen=True)
class Energy:
    """`joules_per_inference` is None where nothing counts it; `reason` then says why. `source` is the counter."""

    joules_per_inference: float | None
    source: str = ""
    reason: str = ""


@dataclass
class Rapl:
    """The sum over CPU packages, with the counters' wrap-around undone."""

    packages: tuple[Path, ...]

    def __post_init__(self) -> None:
        self.source = f"RAPL, {len(self.packages)} CPU package(s), idle power included"
        self._last = [_number(package / "energy_uj") for package in self.packages]
        self._ranges = [_number(package / "max_energy_range_uj") for package in self.packages]
        self._total = 0

    def read(self) -> int | None:
        try:
            values = [_number(package / "energy_uj") for package in self.packages]
        except (OSError, ValueError):
            return None
        for value, last, whole in zip(values, self._last, self._ranges, strict=True):
            self._total += value - last if value >= last else value - last + whole
        self._last = values
        return self._total


class Nvml:
    """The first GPU of the driver's own library, without a package in between."""

    source = "NVML, GPU 0, idle power included"

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._device = ctypes.c_void_p()
        _nvml(library.nvmlInit_v2())
        _nvml(library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self._device)))
        if self.read() is None:
            raise OSError("this GPU does not count energy")

    def read(self) -> int | None:
        millijoules = ctypes.c_ulonglong()
        code = self._library.nvmlDeviceGetTotalEnergyConsumption(self._device, ctypes.byref(millijoules))
        return None if code else millijoules.value * 1000


def find_meter(providers: Sequence[str] = (), root: Path = _POWERCAP) -> tuple[Meter | None, str]:
    """The meter for where a model runs (a GPU's only for GPU providers), or None and the reason."""
    if _GPU_PROVIDERS & set(providers):
        try:
            return Nvml(ctypes.CDLL("libnvidia-ml.so.1")), ""
        except (OSError, AttributeError) as error:  # no driver, or one too old to have the function
            return None, f"NVML: {error}"
    packages = sorted(path for path in root.glob("intel-rapl:*") if path.name.count(":") == 1)
    if not packages:
        return None, f"no RAPL counters: nothing matches {root}/intel-rapl:*"
    with contextlib.suppress(ValueError):
        try:
            return Rapl(tuple(packages)), ""
        except OSError as error:  # since CVE-2020-8694 only root may read them
            return None, f"RAPL: {error.strerror}: {error.filename}"
    return None, f"RAPL: {packages[0]} holds no number"


def _number(path: Path) -> int:
    return int(path.read_text())


def _nvml(code: int) -> None:
    if code:
        raise OSError(f"error {code} (nvmlReturn_t)")
