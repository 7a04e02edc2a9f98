"""From a PyTorch module to a verified, quantized, measured ONNX bundle, and the runtime that serves it.

Importing this package imports nothing else: each name below is fetched when it is first used,
so that a device that only runs bundles needs numpy and ONNX Runtime, nothing more.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Agreement": "edgeai.agreement",
    "Artifact": "edgeai.artifact",
    "Axis": "edgeai.spec",
    "BFloat16": "edgeai.quantization",
    "Batcher": "edgeai.runtime",
    "Bundle": "edgeai.bundle",
    "EdgeAIError": "edgeai.errors",
    "Float16": "edgeai.quantization",
    "Int4Weight": "edgeai.quantization",
    "Int8Dynamic": "edgeai.quantization",
    "Int8Static": "edgeai.quantization",
    "Int8Weight": "edgeai.quantization",
    "Padding": "edgeai.runtime",
    "Report": "edgeai.bench",
    "Samples": "edgeai.samples",
    "Session": "edgeai.runtime",
    "SessionPool": "edgeai.runtime",
    "SessionSettings": "edgeai.runtime",
    "Signature": "edgeai.spec",
    "TensorSpec": "edgeai.spec",
    "Workload": "edgeai.bench",
    "benchmark": "edgeai.bench",
    "build": "edgeai.building",
    "compile": "edgeai.runtime.compiling",
    "debug": "edgeai.debugging",
    "export": "edgeai.exporting",
    "lint": "edgeai.linting",
    "load": "edgeai.runtime",
    "optimize": "edgeai.graph",
    "quantize": "edgeai.quantization",
    "specialize": "edgeai.graph",
    "tune": "edgeai.tuning",
    "verify": "edgeai.verifying",
}

__all__ = sorted(_HOMES)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgeai' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
