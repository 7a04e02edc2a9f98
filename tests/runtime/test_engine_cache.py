"""Compiled engines are kept under everything that they depend on, by one process at a time, and never trusted blindly.

No GPU is needed: what a session would write into its entry is written by the tests.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeai.errors import UnsafePathError
from edgeai.runtime.engine_cache import cached_engines, private_directory

HERE = {"onnxruntime": "1.31.1", "tensorrt": "101600", "cuda": "13.0", "driver": "580.95.05", "gpu_uuid": "a"}
OPTIONS = {"trt_fp16_enable": "True"}
Write = Callable[..., Path]


def entry_of(model: Path, root: Path, options: dict[str, str] = OPTIONS, environment: dict[str, str] = HERE) -> Path:
    with cached_engines(model, options, environment=environment, root=root) as values:
        return Path(values["trt_engine_cache_path"])


def build(model: Path, root: Path, content: bytes = b"engine") -> tuple[Path, bool]:
    """What a session does: takes the engine that is there, or writes one. The entry, and whether it was written."""
    with cached_engines(model, OPTIONS, environment=HERE, root=root) as values:
        entry = Path(values["trt_engine_cache_path"])
        new = not (entry / "sm87.engine").exists()
        if new:
            (entry / "sm87.engine").write_bytes(content)
        return entry, new


def test_an_entry_is_kept_for_its_owner_only(double: Path, tmp_path: Path) -> None:
    root = tmp_path / "cache"
    root.mkdir(mode=0o755)
    entry, new = build(double, root)
    assert new
    assert build(double, root) == (entry, False)
    assert stat.S_IMODE(root.stat().st_mode) == 0o755  # the user's own
    for directory in (root / "engines", entry.parent, entry, entry.parent / "timing"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert json.loads((entry / "entry.json").read_text()).keys() == {"sm87.engine"}


@pytest.mark.parametrize("key", list(HERE))
def test_case_15_another_environment_is_another_entry(double: Path, tmp_path: Path, key: str) -> None:
    assert entry_of(double, tmp_path) != entry_of(double, tmp_path, environment=HERE | {key: "other"})


def test_case_15_other_options_and_other_shapes_are_another_entry(double: Path, tmp_path: Path) -> None:
    found = {entry_of(double, tmp_path, options) for options in (OPTIONS, {}, {"trt_profile_min_shapes": "x:1x3"})}
    assert len(found) == 3


def test_case_15_the_same_graph_with_other_weights_is_another_entry(model: Write, tmp_path: Path) -> None:
    text = "d (float[batch,3] x) => (float[batch,3] y) <float w = {%d}> { y = Mul(x, w) }"
    assert entry_of(model(text % 2, "a.onnx"), tmp_path / "c") != entry_of(model(text % 3, "b.onnx"), tmp_path / "c")


def test_case_15_weights_in_another_file_count_too(double: Path, tmp_path: Path) -> None:
    parsed = onnx.load(double)
    parsed.graph.initializer.append(numpy_helper.from_array(np.zeros(2048, np.float32), "unused"))
    path = tmp_path / "big.onnx"
    onnx.save(parsed, path, save_as_external_data=True, location="big.data", size_threshold=0)
    before = entry_of(path, tmp_path / "c")
    data = bytearray((tmp_path / "big.data").read_bytes())
    data[-1] ^= 1
    (tmp_path / "big.data").write_bytes(data)
    assert entry_of(path, tmp_path / "c") != before


def flip(entry: Path) -> None:
    (entry / "sm87.engine").write_bytes(b"Engine")


def truncate(entry: Path) -> None:
    (entry / "sm87.engine").write_bytes(b"")


def remove(entry: Path) -> None:
    (entry / "sm87.engine").unlink()


def add(entry: Path) -> None:
    (entry / "sm80.engine").write_bytes(b"foreign")


def forget(entry: Path) -> None:
    (entry / "entry.json").unlink()


def spoil(entry: Path) -> None:
    (entry / "entry.json").write_text("{")


def test_timings_are_kept_for_all_models_and_dropped_when_spoiled(model: Write, tmp_path: Path) -> None:
    text = "d (float[batch,3] x) => (float[batch,3] y) <float w = {%d}> { y = Mul(x, w) }"
    seen = []
    for weight in (2, 3, 4):
        path = model(text % weight, f"{weight}.onnx")
        with cached_engines(path, OPTIONS, environment=HERE, root=tmp_path / "c") as values:
            timings = Path(values["trt_timing_cache_path"], "sm87.timing")
            seen.append(timings.exists())
            timings.write_bytes(b"%d" % weight)
        if weight == 3:
            timings.write_bytes(b"cut")
    assert seen == [False, True, False]


def test_engines_that_are_built_at_runs_are_not_cached_and_not_called_harmed(
    double: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "c"
    entry = entry_of(double, root)  # opening it built nothing
    (entry / "sm87.engine").write_bytes(b"built by a run")
    caplog.clear()
    for _ in range(2):
        with cached_engines(double, OPTIONS, environment=HERE, root=root) as values:
            assert values == {}
    assert caplog.text.count("TensorRT builds them at its runs") == 2
    assert "incomplete" not in caplog.text
    assert "take minutes" not in caplog.text


@pytest.mark.parametrize("harm", [flip, truncate, remove, add, forget, spoil])
def test_case_15_an_entry_that_was_changed_is_built_again_and_said_so(
    double: Path, tmp_path: Path, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    entry, _ = build(double, tmp_path / "c")
    harm(entry)
    assert build(double, tmp_path / "c") == (entry, True)
    assert f"{entry} is incomplete or was changed" in caplog.text
    assert build(double, tmp_path / "c") == (entry, False)
    assert sorted(file.name for file in entry.iterdir()) == ["entry.json", "sm87.engine"]


def test_case_15_what_others_could_have_written_is_not_used(double: Path, tmp_path: Path) -> None:
    root = tmp_path / "c"
    entry, _ = build(double, root)
    os.chmod(entry.parent, 0o770)
    with pytest.raises(UnsafePathError, match="could be written to by others, and compiled models are code .rm -r "):
        build(double, root)
    assert (entry / "sm87.engine").exists()  # nothing is removed that might be the user's


def test_somebody_elses_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(UnsafePathError, match=r"not a directory of this user's.*EDGEAI_CACHE"):
        private_directory(tmp_path)


def test_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(UnsafePathError, match="link is not a directory of this user's"):
        private_directory(tmp_path / "link")


def test_a_failed_build_leaves_nothing_that_is_used(double: Path, tmp_path: Path) -> None:
    root = tmp_path / "c"
    with (
        pytest.raises(RuntimeError, match="out of memory"),
        cached_engines(double, OPTIONS, environment=HERE, root=root) as values,
    ):
        Path(values["trt_engine_cache_path"], "sm87.engine").write_bytes(b"half")
        raise RuntimeError("out of memory")
    assert build(double, root)[1]


@pytest.mark.parametrize("place", ["a file", "no home"])
def test_without_a_place_to_write_engines_are_built_each_time(
    double: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    root = tmp_path / "file" / "c"
    if place == "no home":
        for name in ("EDGEAI_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home directory")))
    with cached_engines(double, OPTIONS, environment=HERE, root=None if place == "no home" else root) as values:
        assert values == {}
    assert "engines are not cached" in caplog.text


BUILDER = """
import sys, time
from pathlib import Path
from edgeai.runtime.engine_cache import cached_engines
model, root, environment = Path(sys.argv[1]), sys.argv[2], {environment!r}
with cached_engines(model, {options!r}, environment=environment, root=root) as values:
    engine = Path(values["trt_engine_cache_path"], "sm87.engine")
    if engine.exists():
        print("reused", flush=True)
    else:
        print("building", flush=True)
        engine.write_bytes(b"half")
        sys.stdin.readline()
        engine.write_bytes(b"engine of " + sys.argv[3].encode())
        print("built", flush=True)
"""


@pytest.fixture
def builder(double: Path, tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a process that builds until it is sent a line, or reuses what is there."""
    started = []

    def start(name: str) -> subprocess.Popen[str]:
        code = BUILDER.format(environment=HERE, options=OPTIONS)
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(double), str(tmp_path / "c"), name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=30)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_case_16_of_two_processes_one_builds_and_the_other_waits_for_it(
    builder: Callable[[str], subprocess.Popen[str]], double: Path, tmp_path: Path
) -> None:
    first = builder("first")
    assert line(first) == "building"
    second = builder("second")
    out, _ = first.communicate("go\n", timeout=60)
    assert out.strip() == "built"
    assert second.communicate(timeout=60)[0].strip() == "reused"
    entry = entry_of(double, tmp_path / "c")
    assert (entry / "sm87.engine").read_bytes() == b"engine of first"


def test_case_16_a_builder_that_is_killed_frees_its_lock_and_leaves_nothing_that_is_used(
    builder: Callable[[str], subprocess.Popen[str]], double: Path, tmp_path: Path
) -> None:
    first = builder("first")
    assert line(first) == "building"
    second = builder("second")
    first.send_signal(signal.SIGKILL)
    assert line(second) == "building"
    assert second.communicate("go\n", timeout=60)[0].strip() == "built"
    assert build(double, tmp_path / "c")[1] is False
    assert (entry_of(double, tmp_path / "c") / "sm87.engine").read_bytes() == b"engine of second"
