"""Runs models where it is told to, with numpy and ONNX Runtime alone."""

from edgeai.runtime.engine import Engine
from edgeai.runtime.golden import BundleReport, verify_bundle
from edgeai.runtime.loading import load
from edgeai.runtime.placement import Placement
from edgeai.runtime.providers import PROVIDERS, CpuOptions, CudaOptions, TensorrtOptions, available
from edgeai.runtime.session import Session
from edgeai.runtime.settings import SessionSettings
from edgeai.runtime.tasks import Prediction
from edgeai.runtime.tokenizer import Tokenizer

__all__ = [
    "PROVIDERS",
    "BundleReport",
    "CpuOptions",
    "CudaOptions",
    "Engine",
    "Placement",
    "Prediction",
    "Session",
    "SessionSettings",
    "TensorrtOptions",
    "Tokenizer",
    "available",
    "load",
    "verify_bundle",
]
