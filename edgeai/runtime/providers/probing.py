"""Whether a provider runs a model here, asked in another process: its code may end the one that loads it.

That takes a second or more. What has run is remembered until the machine starts again or something that it depends on
is another; what has not is asked again by every process.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from edgeai.errors import EdgeAIError
from edgeai.ort import onnxruntime
from edgeai.runtime.cuda_driver import driver_version
from edgeai.runtime.engine_cache import private_directory
from edgeai.storage import cache_dir

_LONGEST_S = 180  # TensorRT's builder takes a while to start on a small board
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_SEARCHED = ("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "PYTHONPATH")


_answers: dict[str, str | None] = {}  # of this process


def probe(name: str, *, fresh: bool = False) -> str | None:
    """Why provider `name` (or the plug-in library of that path) does not run a model; None if it does.

    With `fresh`, what was remembered does not count, and is replaced.
    """
    if fresh or name not in _answers:
        _answers[name] = _asked(name, fresh)
    return _answers[name]


def _asked(name: str, fresh: bool) -> str | None:
    mark = _mark(name)
    if mark is not None and mark.exists() and not fresh:
        return None
    why = _try(name)
    if mark is not None:
        with contextlib.suppress(OSError):
            mark.unlink(missing_ok=True) if why else mark.touch(mode=0o600)
    return why


def _try(name: str) -> str | None:
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "edgeai.runtime.providers.probe", name],
            env={**os.environ, "PYTHONPATH": path}, capture_output=True, check=False, timeout=_LONGEST_S,
            text=True, encoding="utf-8", errors="replace",  # vendors' code writes what it likes
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"it did not answer within {_LONGEST_S} s"
    if done.returncode < 0:
        return f"it ends the process that loads it ({signal.Signals(-done.returncode).name})"
    said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return said if done.returncode else None


def _mark(name: str) -> Path | None:
    """The file that stands for a provider that has run here; None where nothing can be remembered."""
    try:
        ort, boot = onnxruntime(), _BOOT.read_text()
        library = str(os.stat(name).st_mtime_ns) if os.sep in name else ""
        built = os.stat(str(ort.__file__)).st_mtime_ns
        parts = (name, library, boot, driver_version(), str(ort.__file__), str(built), sys.prefix)
        text = "\n".join((*parts, *(os.environ.get(key, "") for key in _SEARCHED)))
        return private_directory(cache_dir() / "probed") / hashlib.sha256(text.encode()).hexdigest()[:32]
    except (OSError, RuntimeError, EdgeAIError):  # RuntimeError: there is no home directory
        return None
