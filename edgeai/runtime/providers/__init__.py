"""Execution providers: what each is called, what can be set, and whether it runs on this machine."""

from edgeai.runtime.providers.availability import (
    AUTO,
    available,
    fault,
    reason,
    refuse_unavailable,
    resolve,
    runs,
)
from edgeai.runtime.providers.desktop import CoremlOptions, CpuOptions, DirectmlOptions, WebgpuOptions
from edgeai.runtime.providers.intel import OpenvinoOptions
from edgeai.runtime.providers.nvidia import CudaOptions, TensorrtOptions, TensorrtRtxOptions
from edgeai.runtime.providers.qualcomm import QnnOptions
from edgeai.runtime.providers.table import (
    PROVIDERS,
    PluginOptions,
    Provider,
    ProviderOptions,
    parse_options,
    short_name,
)

__all__ = [
    "AUTO",
    "PROVIDERS",
    "CoremlOptions",
    "CpuOptions",
    "CudaOptions",
    "DirectmlOptions",
    "OpenvinoOptions",
    "PluginOptions",
    "Provider",
    "ProviderOptions",
    "QnnOptions",
    "TensorrtOptions",
    "TensorrtRtxOptions",
    "WebgpuOptions",
    "available",
    "fault",
    "parse_options",
    "reason",
    "refuse_unavailable",
    "resolve",
    "runs",
    "short_name",
]
