"""Which shared libraries a library needs and this machine does not have, and how to get them.

ONNX Runtime itself would only log that, and then run on the CPU. The library is not opened but read: an execution
provider that is loaded before ONNX Runtime has prepared for it keeps a null pointer to its host.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import re
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

_SECTION_DYNAMIC, _TAG_NEEDED = 6, 1
_DRIVER = "libcuda.so.1"
# Libraries whose soversion is the product's major version; those of CUDA below with other numbers come with them.
_PRODUCTS = (
    ("libcudart.", "CUDA"), ("libcublas", "CUDA"), ("libnvrtc.", "CUDA"), ("libcudnn", "cuDNN"),
    ("libnvinfer", "TensorRT"), ("libnvonnxparser", "TensorRT"), ("libopenvino", "OpenVINO"),
)  # fmt: skip
_UNVERSIONED = (("libcurand.", "CUDA"), ("libcufft.", "CUDA"), (_DRIVER, "the NVIDIA driver"))


class Missing(NamedTuple):
    """A library that cannot be loaded, and what the dynamic linker says about it."""

    name: str
    why: str

    @property
    def product(self) -> str:
        """What it belongs to, with the version that is needed, such as `CUDA 13`; empty if that is not known."""
        stem, _, version = self.name.partition(".so.")
        for prefix, product in _PRODUCTS:
            if f"{stem}.".startswith(prefix) and version:
                return f"{product} {version.split('.')[0]}"
        return next((product for prefix, product in _UNVERSIONED if self.name.startswith(prefix)), "")


def describe(missing: Sequence[Missing], found: Sequence[Path]) -> str:
    """One phrase: what the linker says of the first, the names of the others, and what was `found` `elsewhere`."""
    parts = [_named(missing[0], missing[0].why)]
    if missing[1:]:
        parts.append(f"also missing: {', '.join(_named(one) for one in missing[1:])}")
    if found:
        parts.append(f"the linker does not see, or cannot use: {', '.join(map(str, found[:3]))}")
    return "; ".join(parts)


def remedy(missing: Sequence[Missing], found: Sequence[Path], otherwise: str) -> str:
    """The command that mends it: a path to where the libraries were `found`, if only the linker does not see them."""
    seen = [file for one in missing for file in found if file.name.startswith(one.name)]
    if len({file.name.partition(".so")[0] for file in seen}) == len(missing):
        directories = os.pathsep.join(dict.fromkeys(str(file.parent) for file in seen))
        return f"export LD_LIBRARY_PATH={directories}:$LD_LIBRARY_PATH"
    if {one.name for one in missing} == {_DRIVER}:
        return "install the NVIDIA driver, or start the container with --gpus all"
    return otherwise


def elsewhere(missing: Sequence[Missing]) -> list[Path]:
    """Files of the same libraries, of these versions or others, in the places where they are usually installed."""
    stems = tuple(one.name.partition(".so")[0] + ".so" for one in missing)
    roots = [entry for entry in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if entry]
    roots += ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"]
    roots += sorted(map(str, Path("/usr/local").glob("cuda*/lib64")))
    for entry in filter(None, sys.path):
        roots += [*map(str, Path(entry).glob("nvidia/*/lib")), os.path.join(entry, "tensorrt_libs")]
    found = list[Path]()
    for root in dict.fromkeys(roots):  # each is read once: every ep="auto" comes here, and some are large
        with contextlib.suppress(OSError):
            found += [Path(root, name) for name in sorted(os.listdir(root)) if name.startswith(stems)]
    return found


def missing_libraries(library: Path) -> list[Missing]:
    """The direct dependencies that the dynamic linker cannot load, in order.

    A library that is itself no 64-bit little-endian ELF file (System V ABI, chapters 4 and 5) counts as missing.
    """
    try:
        names = list(needed_libraries(library))
    except (OSError, ValueError, IndexError, OverflowError, struct.error) as error:
        return [Missing(library.name, str(error) or "it is not a shared library")]
    tried = ((name, None if (library.parent / name).exists() else _loading_error(name)) for name in names)
    return [Missing(name, why) for name, why in tried if why is not None]


def needed_libraries(library: Path) -> Iterator[str]:
    """The DT_NEEDED entries. Bytes that are no such library give whatever reading beyond them gives."""
    with open(library, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:6] != b"\x7fELF\x02\x01":
            raise ValueError(f"{library} is not a 64-bit little-endian ELF file")
        (sections,) = struct.unpack_from("<Q", data, 0x28)
        size, count = struct.unpack_from("<HH", data, 0x3A)
        headers = [struct.unpack_from("<IIQQQQI", data, sections + i * size) for i in range(count)]
        for _, kind, _, _, offset, length, link in headers:
            if kind == _SECTION_DYNAMIC:
                strings = headers[link][4]
                for tag, value in struct.iter_unpack("<qQ", data[offset : offset + length]):
                    if tag == _TAG_NEEDED:
                        start = strings + value
                        yield data[start : data.find(b"\0", start)].decode()


def _loading_error(name: str) -> str | None:
    try:
        ctypes.CDLL(name)
    except OSError as error:
        return re.sub(rf"^{re.escape(name)}: ", "", str(error))
    return None


def _named(missing: Missing, why: str = "") -> str:
    shown = f"{missing.name} ({missing.product})" if missing.product else missing.name
    return f"{shown}: {why}" if why else shown
