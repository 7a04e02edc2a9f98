"""Runs models where it is told to, with numpy and ONNX Runtime alone."""

from edgeai.runtime.batching import Batcher, BatcherCounts
from edgeai.runtime.binding import Binding
from edgeai.runtime.engine import Engine
from edgeai.runtime.finiteness import NonFiniteWarning
from edgeai.runtime.golden import BundleReport, verify_bundle
from edgeai.runtime.loading import load
from edgeai.runtime.placement import Placement
from edgeai.runtime.pool import SessionPool
from edgeai.runtime.profiling import Profile
from edgeai.runtime.providers import (
    PROVIDERS,
    CoremlOptions,
    CpuOptions,
    CudaOptions,
    DirectmlOptions,
    OpenvinoOptions,
    PluginOptions,
    QnnOptions,
    TensorrtOptions,
    TensorrtRtxOptions,
    WebgpuOptions,
    available,
)
from edgeai.runtime.sampling import Sampling
from edgeai.runtime.session import Session
from edgeai.runtime.settings import SessionSettings
from edgeai.runtime.speculation import PromptLookup
from edgeai.runtime.stacking import Padding
from edgeai.runtime.tasks import Prediction
from edgeai.runtime.tokenizer import Tokenizer

__all__ = [
    "PROVIDERS",
    "Batcher",
    "BatcherCounts",
    "Binding",
    "BundleReport",
    "CoremlOptions",
    "CpuOptions",
    "CudaOptions",
    "DirectmlOptions",
    "Engine",
    "NonFiniteWarning",
    "OpenvinoOptions",
    "Padding",
    "Placement",
    "PluginOptions",
    "Prediction",
    "Profile",
    "PromptLookup",
    "QnnOptions",
    "Sampling",
    "Session",
    "SessionPool",
    "SessionSettings",
    "TensorrtOptions",
    "TensorrtRtxOptions",
    "Tokenizer",
    "WebgpuOptions",
    "available",
    "load",
    "verify_bundle",
]
