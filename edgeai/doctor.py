"""What this machine is, what runs on it, and why the rest does not: each finding with the command that mends it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeai.errors import EdgeAIError
from edgeai.machine import Machine, cpu_quota, machine, memory_limit_bytes, usable_cores
from edgeai.ort import onnxruntime
from edgeai.runtime import cuda_driver
from edgeai.runtime.engine_cache import private_directory
from edgeai.runtime.providers import PROVIDERS, fault, runs
from edgeai.runtime.providers.wheels import installed_wheels, wheel_fault
from edgeai.storage import cache_dir

_OLDEST = (1, 31)  # pyproject.toml: the runtime asks for what came with it


@dataclass(frozen=True)
class Finding:
    """`ok` runs or is as it should be, `note` is worth knowing, `problem` breaks something that should work."""

    subject: str
    level: Literal["ok", "note", "problem"]
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """The machine and what was found on it, the most basic first."""

    machine: Machine
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Is nothing broken? A provider that this machine has no device for breaks nothing."""
        return all(finding.level != "problem" for finding in self.findings)


def examine(*, root: Path = Path("/")) -> Diagnosis:
    """Look at everything. Providers are tried in processes of their own, so nothing that they do ends this one."""
    here = machine()
    findings = [*_processor(here, root), *_memory(here, root), *_packages(), *_telemetry(), *_cache()]
    if all(finding.level != "problem" for finding in findings if finding.subject == "onnxruntime"):
        findings += _providers()
    return Diagnosis(here, tuple(findings))


def _processor(here: Machine, root: Path) -> Iterator[Finding]:
    features = ", ".join(here.features) or "no features that are known"
    if here.has_int8_dot_product:
        yield Finding("cpu", "ok", f"{here.cpu} ({here.architecture}): {features}")
    else:
        yield Finding(
            "cpu", "note", f"{here.cpu} ({here.architecture}): {features}; products of uint8 and int8 saturate",
            "quantize with reduced ranges, or set SessionSettings(config={'session.x64quantprecision': '1'})",
        )  # fmt: skip
    quota, cores = cpu_quota(root), usable_cores(root)
    if quota is None:
        yield Finding("cores", "ok", f"{cores} of {os.cpu_count()}, without a quota")
    elif quota >= cores and quota == int(quota):
        yield Finding("cores", "ok", f"{cores} of {os.cpu_count()}, with a cgroup quota of {quota:g}")
    else:
        yield Finding(
            "cores", "note", f"the cgroup's quota is {quota:g} cores: more than {cores} threads are stopped and wait",
            f"keep SessionSettings(threads={cores}, spinning=False), or raise the quota to whole cores",
        )  # fmt: skip


def _memory(here: Machine, root: Path) -> Iterator[Finding]:
    limit, total = memory_limit_bytes(root), here.memory_bytes
    if limit is not None and (total is None or limit < total):
        yield Finding(
            "memory", "note", f"the cgroup's limit is {limit / 1e9:.2f} GB: beyond it the kernel ends the process",
            "raise the limit, or load with SessionSettings(arena=False)",
        )  # fmt: skip
    elif total is not None:
        yield Finding("memory", "ok", f"{total / 1e9:.1f} GB, without a limit")


def _packages() -> Iterator[Finding]:
    yield Finding("python", "ok", f"{sys.version.split()[0]} in {sys.prefix}")
    wheels = installed_wheels()
    try:
        ort = onnxruntime()
    except EdgeAIError as error:
        wrong = wheel_fault(wheels, "") if len(wheels) > 1 else None
        yield Finding("onnxruntime", "problem", *(wrong or (error.message, error.hint)))
        return
    version = str(ort.__version__)
    listed = ", ".join(f"{wheel.name} {wheel.version}" for wheel in wheels) or f"{version}, of no known wheel"
    if wrong := wheel_fault(wheels, version):
        yield Finding("onnxruntime", "problem", *wrong)
    elif tuple(map(int, re.findall(r"\d+", version)[:2])) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        name = wheels[0].name if wheels else "onnxruntime"
        yield Finding(
            "onnxruntime", "note", f"{listed} is older than {oldest}, which edgeai is tested with",
            f"pip install '{name}>={oldest}'",
        )  # fmt: skip
    else:
        yield Finding("onnxruntime", "ok", listed)
    built, driver = ort.get_available_providers(), cuda_driver.driver()
    if driver is not None and "CUDAExecutionProvider" not in built:
        yield Finding(
            "gpu", "note", f"an NVIDIA driver for CUDA {cuda_driver.cuda_version(driver)}, which {listed} cannot use",
            "pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'",
        )  # fmt: skip


def _telemetry() -> Iterator[Finding]:
    switch = os.environ.get("ORT_DISABLE_TELEMETRY", "1")
    if switch == "1":
        yield Finding("telemetry", "ok", "ONNX Runtime's is off (ORT_DISABLE_TELEMETRY=1)")
    else:
        yield Finding(
            "telemetry", "note", f"ONNX Runtime's is on: ORT_DISABLE_TELEMETRY={switch} was set by you",
            "unset ORT_DISABLE_TELEMETRY, and edgeai switches it off",
        )  # fmt: skip


def _cache() -> Iterator[Finding]:
    try:
        directory = private_directory(cache_dir() / "engines")
    except (EdgeAIError, OSError, RuntimeError) as error:  # RuntimeError: there is no home directory
        said = error.message if isinstance(error, EdgeAIError) else str(error)
        yield Finding(
            "cache", "note", f"compiled models cannot be kept: {said}",
            "set EDGEAI_CACHE to a directory of your own",
        )  # fmt: skip
        return
    yield Finding("cache", "ok", f"{directory.parent}")


def _providers() -> Iterator[Finding]:
    for name, provider in tuple(PROVIDERS.items()):
        if found := fault(name):
            yield Finding(name, "note", found.why, found.remedy)
        elif why := runs(name, fresh=True):
            yield Finding(name, "problem", f"its libraries load, but it runs nothing: {why}", provider.remedy)
        else:
            yield Finding(name, "ok", f"runs ({provider.ort_name})")
