"""What this machine is: the facts that decide which kernels run and how many threads help.

Reads the operating system's own files; a fact that cannot be read is None, never a guess.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

# What ONNX Runtime's integer kernels choose between: with none of the first group, u8 x s8 products are
# summed in 16 bits and saturate (onnxruntime docs, "When to use reduce-range or per-channel quantization").
_DOT_PRODUCT_FEATURES = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})
_REPORTED_FEATURES = _DOT_PRODUCT_FEATURES | {
    "sse4_1",
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512dq",
    "avx512vl",
    "avx512_bf16",
    "amx_tile",
    "asimd",
    "asimdhp",
    "bf16",
    "sve",
}
_PACKAGES = ("edgeai", "numpy", "onnxruntime", "onnxruntime-gpu", "onnx", "onnx-ir", "onnxscript", "torch")


@dataclass(frozen=True)
class Machine:
    """`cores` is what this process may use: affinity and the cgroup's quota both counted."""

    system: str
    architecture: str
    cpu: str
    features: tuple[str, ...]
    cores: int
    memory_bytes: int | None
    python: str
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def has_int8_dot_product(self) -> bool:
        """Does the CPU sum int8 products in 32 bits, so that u8 x s8 cannot saturate?"""
        return bool(_DOT_PRODUCT_FEATURES & set(self.features)) or self.architecture not in (
            "x86_64",
            "AMD64",
        )

    @property
    def fingerprint(self) -> str:
        """Machines with equal fingerprints may compare their timings."""
        return f"{self.architecture}|{self.cpu}|{self.cores} cores|{','.join(self.features)}"


@cache
def machine() -> Machine:
    """This machine, read once."""
    cpu, features = _cpu()
    return Machine(
        system=f"{platform.system()} {platform.release()}",
        architecture=platform.machine(),
        cpu=cpu,
        features=tuple(sorted(_REPORTED_FEATURES & features)),
        cores=usable_cores(),
        memory_bytes=_memory_bytes(),
        python=platform.python_version(),
        versions=versions(),
    )


@cache
def versions() -> dict[str, str]:
    """Installed versions of the packages whose behaviour ends up in a model or a measurement."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def usable_cores(root: Path = Path("/")) -> int:
    """Whole cores that this process may keep busy: the affinity mask, cut by the cgroup's CPU quota."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(root)
    return affinity if quota is None else max(1, min(affinity, int(quota)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Cores that the cgroup lets this process use per period, such as 1.5; None without a limit."""
    v2 = _read(root / "sys/fs/cgroup/cpu.max").split()
    if len(v2) == 2 and v2[0] != "max":
        return int(v2[0]) / int(v2[1])
    quota, period = (_read(root / f"sys/fs/cgroup/cpu/cpu.cfs_{name}_us") for name in ("quota", "period"))
    return int(quota) / int(period) if quota and period and int(quota) > 0 else None


def memory_limit_bytes(root: Path = Path("/")) -> int | None:
    """Memory that the cgroup lets this process use; None without a limit."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        text = _read(root / "sys/fs/cgroup" / name)
        if text.isdigit() and int(text) < 1 << 60:  # the first version writes "no limit" as a huge number
            return int(text)
    return None


def _cpu() -> tuple[str, set[str]]:
    name, features = platform.processor() or platform.machine(), set[str]()
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        elif key.strip() in ("flags", "Features"):
            features |= set(value.split())
    return name, features


def _memory_bytes() -> int | None:
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
