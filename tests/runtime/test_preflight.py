"""Which libraries a library misses, read from its bytes, and how to get them."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from pathlib import Path

import pytest

from edgeai.runtime.preflight import Missing, describe, elsewhere, missing_libraries, needed_libraries, remedy

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ELF files are Linux's")
ABSENT = "cannot open shared object file: No such file or directory"


@linux
def test_needed_libraries_are_read_from_the_file() -> None:
    # the extension module of ctypes is linked to libffi and libc, on every distribution
    import _ctypes

    names = list(needed_libraries(Path(_ctypes.__file__))) if getattr(_ctypes, "__file__", None) else ["libc.so.6"]
    assert any(name.startswith("libc.") for name in names)
    assert all(ctypes.CDLL(name) for name in names)


def elf(path: Path, *needed: str) -> Path:
    """The smallest ELF file that has a dynamic section."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name in needed)
    offsets = [names.index(name.encode() + b"\0") for name in needed]
    dynamic = b"".join(struct.pack("<qQ", 1, offset) for offset in offsets) + struct.pack("<qQ", 0, 0)
    start = 64
    header = b"\x7fELF\x02\x01" + bytes(34) + struct.pack("<Q", start + len(names) + len(dynamic)) + bytes(10)
    header += struct.pack("<HHH", 64, 2, 0)
    section = "<IIQQQQIIQQ"
    sections = struct.pack(section, 0, 3, 0, 0, start, len(names), 0, 0, 0, 0)
    sections += struct.pack(section, 0, 6, 0, 0, start + len(names), len(dynamic), 0, 0, 0, 0)
    path.write_bytes(header + names + dynamic + sections)
    return path


@linux
def test_only_what_cannot_be_loaded_is_missing(tmp_path: Path) -> None:
    libc = "libc.so.6" if platform.libc_ver()[0] == "glibc" else "libc.so"
    (tmp_path / "libbeside.so").touch()
    library = elf(tmp_path / "lib.so", libc, "libnobody.so.9", "libbeside.so")
    assert list(needed_libraries(library)) == [libc, "libnobody.so.9", "libbeside.so"]
    (missing,) = missing_libraries(library)
    assert missing.name == "libnobody.so.9"
    assert "libnobody" not in missing.why
    assert missing.why


@pytest.mark.parametrize("content", [None, b"", b"MZ not an ELF file", b"\x7fELF\x02\x01" + b"\xff" * 80])
def test_a_library_that_is_none_is_itself_missing(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "lib.so"
    if content is not None:
        path.write_bytes(content)
    (missing,) = missing_libraries(path)
    assert missing.name == "lib.so"
    assert missing.why


@pytest.mark.parametrize(
    ("name", "product"),
    [
        ("libcublasLt.so.13", "CUDA 13"),
        ("libcudart.so.12", "CUDA 12"),
        ("libcudnn.so.9", "cuDNN 9"),
        ("libcudnn_ops.so.9", "cuDNN 9"),
        ("libnvinfer.so.10", "TensorRT 10"),
        ("libnvonnxparser.so.10", "TensorRT 10"),
        ("libcurand.so.10", "CUDA"),  # its number is not CUDA's
        ("libcuda.so.1", "the NVIDIA driver"),
        ("libother.so.3", ""),
        ("lib.so", ""),
    ],
)
def test_the_version_that_is_needed_is_named(name: str, product: str) -> None:
    assert Missing(name, ABSENT).product == product


def test_the_first_is_explained_and_the_others_are_listed() -> None:
    text = describe([Missing("libnvinfer.so.10", ABSENT), Missing("libnobody.so", "invalid ELF header")], [])
    assert text == f"libnvinfer.so.10 (TensorRT 10): {ABSENT}; also missing: libnobody.so"


def test_another_version_is_pointed_out_and_the_right_one_is_put_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", os.pathsep.join([str(tmp_path / "none"), str(tmp_path)]))
    missing = [Missing("libnobodynvinfer.so.10", ABSENT)]
    assert remedy(missing, elsewhere(missing), "otherwise") == "otherwise"
    for name in ("libnobodynvinfer.so.8", "libnobodynvinfer_plugin.so.10", "libnobody.so"):
        (tmp_path / name).touch()
    assert elsewhere(missing) == [tmp_path / "libnobodynvinfer.so.8"]
    text = describe(missing, elsewhere(missing))
    assert text.endswith(f"the linker does not see, or cannot use: {tmp_path}/libnobodynvinfer.so.8")
    assert remedy(missing, elsewhere(missing), "otherwise") == "otherwise"
    (tmp_path / "libnobodynvinfer.so.10").touch()
    found = elsewhere(missing)
    assert remedy(missing, found, "otherwise") == f"export LD_LIBRARY_PATH={tmp_path}:$LD_LIBRARY_PATH"
    assert remedy([*missing, Missing("libcuda.so.1", ABSENT)], found, "otherwise") == "otherwise"


def test_without_a_driver_no_package_helps() -> None:
    assert "NVIDIA driver" in remedy([Missing("libcuda.so.1", ABSENT)], [], "pip install something")
