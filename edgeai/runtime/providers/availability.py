"""Whether a provider runs on this machine, and if not, exactly what is missing and the command that mends it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from edgeai.errors import ProviderError, UsageError
from edgeai.ort import onnxruntime
from edgeai.runtime.options import nearest
from edgeai.runtime.preflight import describe, elsewhere, missing_libraries, remedy
from edgeai.runtime.providers.plugin import (
    installed_library,
    is_library,
    is_registered,
    open_library,
    package_library,
    without_stdout,
)
from edgeai.runtime.providers.probing import probe
from edgeai.runtime.providers.table import PROVIDERS, Provider, short_name
from edgeai.runtime.providers.wheels import installed_wheels, wheel_fault

AUTO = "auto"
# Those that answer like the CPU without being asked twice: TensorRT builds engines for minutes, and CoreML, QNN and
# WebGPU compute in half precision or want a model made for them.
_AUTO_ORDER = ("cuda", "directml", "openvino", "cpu")
_DRIVER = "libcuda.so.1"


class Fault(NamedTuple):
    """Why a provider cannot load, in a few words, and the command that mends it."""

    why: str
    remedy: str


def resolve(ep: str | Sequence[str]) -> tuple[str, ...]:
    """Short names in order of preference. ONNX Runtime's long names and paths of plug-in libraries are accepted.

    "auto" is the first of CUDA, DirectML, OpenVINO and the CPU that really runs a model here, tried in a process of
    its own. Raises UsageError for an unknown name, a name given twice, or none; ProviderError for a plug-in library
    that cannot be loaded.
    """
    if ep == AUTO:
        return (next(name for name in _AUTO_ORDER if runs(name) is None),)
    names = tuple(
        open_library(name).name if is_library(name) else short_name(name)
        for name in ([ep] if isinstance(ep, str) else ep)
    )
    for name in names:
        if name not in PROVIDERS:
            raise UsageError(f"there is no execution provider {name!r}", hint=nearest(name, (AUTO, *PROVIDERS)))
    if not names or len(set(names)) < len(names):
        raise UsageError(f"execution providers: {', '.join(names) or 'none'} given, each is needed once")
    return names


def available() -> dict[str, str | None]:
    """For each provider None if it runs a model on this machine, else the reason why not."""
    return {name: runs(name) for name in PROVIDERS}


def runs(name: str, *, fresh: bool = False) -> str | None:
    """Why the provider does not run a small model here; None if it does. Tried in another process, once.

    Loading a provider runs vendors' code, which may end the process that loads it. With `fresh` it is tried again,
    even if it has run before.
    """
    return reason(name) or (None if name == "cpu" else probe(PROVIDERS[name].path or name, fresh=fresh))


def reason(name: str) -> str | None:
    """Why the provider cannot load here, in a few words; None if nothing is missing. Loads none of its code.

    That it can load does not say that its device answers: `runs` does, and so does creating a session.
    """
    found = fault(name)
    return found and found.why


def refuse_unavailable(name: str) -> None:
    """Raise ProviderError, with what is missing and the command that mends it, unless the provider can load.

    A provider that is a plug-in is loaded into this process.
    """
    if found := fault(name):
        raise ProviderError(f"execution provider {name} does not run here: {found.why}", hint=found.remedy)
    provider = PROVIDERS[name]
    if provider.path:
        open_library(provider.path)
    elif provider.package and provider.ort_name not in onnxruntime().get_available_providers():
        open_library(package_library(provider.package))


def fault(name: str) -> Fault | None:
    """What `reason` says, with its remedy."""
    provider = PROVIDERS[name]
    if name == "cpu" or provider.path:
        return None
    ort = onnxruntime()
    if provider.ort_name in ort.get_available_providers():
        if not provider.library or not sys.platform.startswith("linux") or is_registered(provider.ort_name):
            return None
        return _library_fault(Path(str(ort.__file__)).parent / "capi" / provider.library, provider)
    if provider.package and (library := installed_library(provider.package)):
        readable = library.suffix == ".so" and sys.platform.startswith("linux")
        return _library_fault(library, provider) if readable else None
    wheels = installed_wheels()
    if wrong := wheel_fault(wheels, str(ort.__version__)):
        return Fault(*wrong)
    installed = ", ".join(f"{wheel.name} {wheel.version}" for wheel in wheels) or f"onnxruntime {ort.__version__}"
    beside = f", and its plug-in {provider.package} is not installed" if provider.package else ""
    return Fault(f"{installed} is built without it{beside}", provider.remedy)


def _library_fault(library: Path, provider: Provider) -> Fault | None:
    missing = missing_libraries(library)
    if missing and _DRIVER not in (one.name for one in missing):
        # NVIDIA's wheels put their libraries where only ONNX Runtime looks; it prints what it does not find.
        with without_stdout():
            onnxruntime().preload_dlls()
        missing = missing_libraries(library)
    if not missing:
        return None
    found = elsewhere(missing)
    return Fault(describe(missing, found), remedy(missing, found, provider.remedy))
