"""What the driver's library says, asked through ctypes; the library is a stand-in where there is no GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeai.runtime import cuda_driver
from edgeai.runtime.cuda_driver import Device, cuda_version, devices, driver_version, why_no_device


class Library:
    """libcuda.so.1 with `names` as its devices; `init` is what cuInit answers."""

    def __init__(self, *names: str, init: int = 0) -> None:
        self.names, self.init = names, init

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802 - the driver's own names
        version._obj.value = 13010
        return 0

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self.init

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self.names)
        return 0

    def cuDeviceGet(self, handle: Any, index: int) -> int:  # noqa: N802
        handle._obj.value = index
        return 0

    def cuDeviceGetName(self, text: Any, size: int, handle: Any) -> int:  # noqa: N802
        text.value = self.names[handle.value].encode()
        return 0

    def cuDeviceGetUuid_v2(self, uuid: Any, handle: Any) -> int:  # noqa: N802
        uuid.raw = bytes([handle.value]) * 16
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, handle: Any) -> int:  # noqa: N802
        value._obj.value = {75: 8, 76: 7}[attribute]
        return 0


def test_devices_and_versions_are_read() -> None:
    library = Library("Orin", "RTX")
    assert cuda_version(library) == "13.1"
    assert devices(library) == (Device("Orin", "00" * 16, "8.7"), Device("RTX", "01" * 16, "8.7"))


@pytest.mark.parametrize(
    ("library", "index", "words"),
    [
        (Library("Orin"), 0, ""),
        (Library("Orin"), 1, "there is no device 1 (devices: 0: Orin)"),
        (Library(), 0, "there is no device 0 (devices: none)"),
        (Library(init=100), 0, "the driver sees no CUDA device; it supports CUDA 13.1"),
        (Library(init=803), 0, "of different versions: restart the machine"),
        (Library(init=7), 0, "the driver answers with error 7"),
        (None, 0, "there is no NVIDIA driver"),
    ],
)
def test_why_there_is_no_device(library: Any, index: int, words: str) -> None:
    said = why_no_device(library, index)
    assert words in said
    assert bool(said) == bool(words)


def test_a_driver_that_does_not_start_has_no_devices() -> None:
    assert devices(Library("Orin", init=100)) == ()


def test_the_kernel_says_the_drivers_version(tmp_path: Path) -> None:
    assert driver_version(tmp_path) == ""
    (tmp_path / "sys/module/nvidia").mkdir(parents=True)
    (tmp_path / "sys/module/nvidia/version").write_text("580.95.05\n")
    assert driver_version(tmp_path) == "580.95.05"


def test_the_environment_of_an_engine_names_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeai.runtime.engine_cache import cuda_environment

    monkeypatch.setattr(cuda_driver, "driver", lambda: Library("Orin"))
    found = cuda_environment(0)
    assert (found["gpu"], found["compute_capability"], found["cuda"]) == ("Orin", "8.7", "13.1")
    assert cuda_environment(1)["gpu"] == ""
