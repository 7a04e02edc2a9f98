"""Built engines and kernel timings of TensorRT, kept under a key of everything that they depend on.

ONNX Runtime names a cached engine after the graph's structure, so that a model with other weights has got the first
one's engine (its issue 6455), and it does not lock. Here each entry is a directory of its own. An engine is code:
nobody else may write there, and an entry whose bytes are not what was recorded is built again.

    ROOT/engines/                owner only
        ENVIRONMENT.lock         held while engines are built on this GPU: timings of two at once would be wrong
        ENVIRONMENT/timing/      kernel timings, for all models
        ENVIRONMENT/KEY.lock     held while the entry is checked, built or opened; the kernel frees it if we die
        ENVIRONMENT/KEY/         engines, and `entry.json`: sha256 of each file
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import logging
import os
import shlex
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeai.errors import StorageError, UnsafePathError
from edgeai.external import external_files
from edgeai.ort import onnxruntime
from edgeai.runtime import cuda_driver
from edgeai.runtime.preflight import needed_libraries
from edgeai.storage import atomic_text, cache_dir, is_partial, lock_file, sha256

_LOG = logging.getLogger("edgeai")
_RECORD = "entry.json"
_PROVIDER = "libonnxruntime_providers_tensorrt.so"


def cuda_environment(device_id: int) -> dict[str, str]:
    """What an engine for this GPU depends on besides its model and options. Starts CUDA in this process."""
    library = cuda_driver.driver()
    found = {"onnxruntime": str(onnxruntime().__version__), "tensorrt": _tensorrt_version()}
    if library is None:
        return found
    gpus = cuda_driver.devices(library)
    device = gpus[device_id] if device_id < len(gpus) else cuda_driver.Device("", "", "")
    return found | {
        "cuda": cuda_driver.cuda_version(library), "driver": cuda_driver.driver_version(),
        "gpu": device.name, "gpu_uuid": device.uuid, "compute_capability": device.capability,
    }  # fmt: skip


@contextlib.contextmanager
def cached_engines(
    model: Path,
    options: Mapping[str, str],
    *,
    environment: Mapping[str, str],
    root: str | Path | None = None,
    timings: bool = True,
) -> Iterator[dict[str, str]]:
    """Yield the TensorRT options that name this model's entry, while the session is made.

    The entry is whole or empty, and locked against other processes; with `timings`, those of former builds on such a
    GPU are reused. What is yielded is empty, and engines are built each time, without a place to write and for a model
    of which opening built none: TensorRT builds those at runs, whenever a shape is new. Raises
    UnsafePathError if the place belongs to somebody else, or others could have written to it.
    """
    with contextlib.ExitStack() as held:
        try:
            base = private_directory(Path(root or cache_dir()) / "engines")
            shelf = private_directory(base / _digest(environment))
            entry = shelf / _digest({"model": _model_digest(model), "options": dict(options)})
            held.enter_context(_locked(entry.with_suffix(".lock")))
            at_runs = _recorded(private_directory(entry)) == {}
            complete, timing = at_runs or _emptied_unless_whole(entry), shelf / "timing"
            if not complete:
                _LOG.warning("TensorRT builds engines for %s, which may take minutes", model)
                held.enter_context(_locked(base / f"{shelf.name}.lock"))
                _emptied_unless_whole(timing)
        except (OSError, RuntimeError, StorageError) as error:  # RuntimeError: there is no home directory
            _LOG.warning("engines are not cached: %s", error)
            yield {}
            return
        if at_runs:  # what is written while nobody holds the lock cannot be told from what was harmed
            _LOG.warning(
                "engines for %s are not cached: TensorRT builds them at its runs, as where axes have no ranges", model
            )
            yield {}
            return
        values = {"trt_engine_cache_enable": "True", "trt_engine_cache_path": str(entry)}
        if timings:
            values |= {"trt_timing_cache_enable": "True", "trt_timing_cache_path": str(timing)}
        yield values
        for directory in (entry,) if complete else (entry, timing):
            _record(directory)


def private_directory(path: Path) -> Path:
    """Make `path`, or make sure that it is a directory of this user's that nobody else can enter.

    Raises UnsafePathError for somebody else's, and for one that others could have written to.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise UnsafePathError(
            f"{path} is not a directory of this user's, and compiled models are code",
            hint="remove it, or set EDGEAI_CACHE to a directory of your own",
        )
    if status.st_mode & 0o022:
        raise UnsafePathError(
            f"{path} could be written to by others, and compiled models are code",
            hint=f"rm -r {shlex.quote(str(path))}",
        )
    os.chmod(path, 0o700)
    return path


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w") as stream:
        lock_file(stream)
        yield


def _files(entry: Path) -> dict[str, str]:
    return {
        file.relative_to(entry).as_posix(): sha256(file)
        for file in sorted(entry.rglob("*"))
        if file.is_file() and file.name != _RECORD and not is_partial(file)
    }


def _emptied_unless_whole(entry: Path) -> bool:
    """Are the files exactly those that were recorded? If not, the directory is empty afterwards."""
    recorded = _recorded(private_directory(entry))
    whole = bool(recorded) and recorded == _files(entry)
    if not whole:
        if any(entry.iterdir()):
            _LOG.warning("%s is incomplete or was changed: it is made again", entry)
        shutil.rmtree(entry)
        private_directory(entry)
    return whole


def _recorded(entry: Path) -> object:
    """What `_record` wrote; None if there is nothing that can be read. Empty if opening the model built no engine."""
    try:
        return json.loads((entry / _RECORD).read_text())
    except (OSError, ValueError):
        return None


def _record(entry: Path) -> None:
    try:
        atomic_text(entry / _RECORD, json.dumps(_files(entry), sort_keys=True), overwrite=True)
    except StorageError as error:  # the session stands all the same
        _LOG.warning("engines are not cached: %s", error)


def _model_digest(model: Path) -> list[str]:
    return [sha256(model), *(sha256(model.parent / name) for name in external_files(model))]


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def _tensorrt_version() -> str:
    """The version of the library that this build of ONNX Runtime is linked to; empty if it is not here."""
    provider = Path(str(onnxruntime().__file__)).parent / "capi" / _PROVIDER
    try:
        name = next(name for name in needed_libraries(provider) if name.startswith("libnvinfer.so"))
        return f"{name} {ctypes.CDLL(name).getInferLibVersion()}"
    except (OSError, ValueError, StopIteration, AttributeError):
        return ""
