"""What the linter knows of each target. One row a target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeai.linting import cpu, devices
from edgeai.linting.rules import Rule, Warn


@dataclass(frozen=True)
class Target:
    """`optimized`: the rules are about the graph that ONNX Runtime's CPU provider has optimized here."""

    rules: tuple[Rule, ...]
    warnings: tuple[Warn, ...] = ()
    optimized: bool = False


TARGETS: Mapping[str, Target] = {
    "cpu": Target(cpu.RULES, cpu.WARNINGS, optimized=True),
    "cuda": Target(devices.CUDA),
    "tensorrt": Target(devices.TENSORRT),
    "openvino": Target(devices.OPENVINO),
}
