"""Integer models whose sums a CPU without integer dot products would clamp: there they get slower, exact kernels.

The lineage says whether weights use all eight bits and whether calibration has shown sums that leave 16 bits. ONNX
Runtime's `session.x64quantprecision` makes the weights unsigned when it loads such a file, and the kernels for those
do not clamp.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from edgeai.artifact import Artifact
from edgeai.errors import EdgeAIError
from edgeai.external import metadata
from edgeai.machine import Machine, machine
from edgeai.runtime.settings import SessionSettings

KEY = "session.x64quantprecision"


def with_precise_sums(path: Path, settings: SessionSettings, *, on: Machine | None = None) -> SessionSettings:
    """`settings`, with exact kernels where this file needs them on this CPU (`on`) and they say nothing of it."""
    if (on or machine()).has_int8_dot_product or KEY in settings.config or not _may_clamp(path):
        return settings
    return dataclasses.replace(settings, config={**settings.config, KEY: "1"})


def why_sums_fit(path: Path) -> str:
    """What the lineage of a quantized file says against clamped sums; empty where it says nothing."""
    reasons = [_fits(options) for options in _quantized(path)]
    return " and ".join(dict.fromkeys(reasons)) if all(reasons) else ""


def _may_clamp(path: Path) -> bool:
    return any(_clamps(options) for options in _quantized(path))


def _quantized(path: Path) -> list[Mapping[str, object]]:
    try:
        lineage = Artifact.from_metadata(path, metadata(path)).lineage
    except EdgeAIError:  # whoever opens the file says what is wrong with it
        return []
    return [step.options for step in lineage if step.tool == "quantize" and step.options.get("weight_type") == "int8"]


def _clamps(options: Mapping[str, object]) -> bool:
    """Of weights with all eight bits, unless calibration has shown that the sums fit."""
    return options.get("reduce_range") is False and not _fits(options)


def _fits(options: Mapping[str, object]) -> str:
    if options.get("reduce_range") is True:
        return "the recipe left one bit of the weights unused (reduce_range)"
    seen = options.get("saturation")
    if isinstance(seen, Mapping) and not seen.get("clamped"):
        return "of the sums that calibration saw, none leaves 16 bits"
    return ""
