"""Providers in libraries of their own: registered with ONNX Runtime once a process, and kept until its end."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from edgeai.errors import ProviderError, UsageError
from edgeai.ort import onnxruntime
from edgeai.runtime.providers.table import PROVIDERS, Provider, add_plugin

_SUFFIXES = (".so", ".dll", ".dylib")
_registered: dict[str, str] = {}  # library -> ONNX Runtime's name of the provider in it
_lock = threading.Lock()
_stdout = threading.Lock()


@contextlib.contextmanager
def without_stdout() -> Iterator[None]:
    """For code that prints what nobody asked for. One thread at a time: `sys.stdout` is one for all of them, and two
    that put it back in another order would leave it lost.
    """
    with _stdout, contextlib.redirect_stdout(io.StringIO()):
        yield


def is_library(name: str) -> bool:
    """Is this how a user names a plug-in library, rather than a provider?"""
    return os.sep in name or name.endswith(_SUFFIXES)


def is_registered(ort_name: str) -> bool:
    """Has this process loaded the provider from a plug-in library?"""
    return ort_name in _registered.values()


def installed_library(package: str) -> Path | None:
    """Where an installed package keeps its plug-in library, without running any of its code; None if it is not here."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        return None
    directory = Path(found.submodule_search_locations[0])
    return next(iter(sorted(directory.glob("*onnxruntime_providers_*"))), directory)


def package_library(package: str) -> str:
    """The plug-in library, as the package itself says; some load the libraries that it needs on the way.

    Raises ProviderError if the package does not say it.
    """
    try:
        with without_stdout():
            return str(importlib.import_module(package).get_library_path())
    except Exception as error:  # any package may be here, and may fail in any way
        raise ProviderError(f"the package {package} does not say where its library is: {error}") from error


def open_library(path: str) -> Provider:
    """Load a plug-in library into this process and give the row of the provider in it.

    This runs the library's code: name none that you do not trust. Raises UsageError if there is no such file,
    ProviderError if ONNX Runtime cannot load it or it finds no device.
    """
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"{path}: no such plug-in library", hint=f"or name a provider: {', '.join(PROVIDERS)}")
    key = str(file.resolve())
    with _lock:
        if key not in _registered:
            _registered[key] = _register(key)
        return add_plugin(_registered[key], key)


def _register(path: str) -> str:
    ort = onnxruntime()
    ort.set_default_logger_severity(4)
    before = {device.ep_name for device in ort.get_ep_devices()}
    try:
        ort.register_execution_provider_library(path, path)
    # onnxruntime's exceptions share no base below Exception
    except Exception as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0].rpartition("with error: ")[2]
        raise ProviderError(
            f"{path} is not an execution provider that ONNX Runtime {ort.__version__} can load: {said}",
            hint="install the build of the plug-in for this machine and this version",
        ) from error
    new = [device.ep_name for device in ort.get_ep_devices() if device.ep_name not in before]
    if not new:
        ort.unregister_execution_provider_library(path)
        raise ProviderError(
            f"{path} loads, but finds no device that it can run on", hint="check the device and its driver"
        )
    return str(new[0])
