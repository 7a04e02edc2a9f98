"""Weights move into huge pages where the kernel gives them, answers stay, and where it gives none the log says so."""

from __future__ import annotations

import itertools
import json
import logging
import mmap
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import edgeai
from edgeai.runtime import huge_pages
from edgeai.runtime.huge_pages import page_bytes

MB = 1 << 20
WEIGHTS = 4  # of 4 MiB each


def collapses() -> bool:
    """Does this kernel move memory into huge pages when it is asked to?"""
    size = page_bytes()
    if not size or size > 16 * MB:
        return False
    with mmap.mmap(-1, 2 * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as some:
        some[:] = bytes(len(some))
        try:
            some.madvise(huge_pages._MADV_COLLAPSE)
        except OSError:
            return False
    return True


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Products with 16 MiB of weights."""
    random = np.random.default_rng(0)
    names = ["x", *(f"h{i}" for i in range(1, WEIGHTS)), "y"]
    graph = helper.make_graph(
        [helper.make_node("MatMul", [a, f"w{a}"], [b]) for a, b in itertools.pairwise(names)],
        "large",
        [helper.make_tensor_value_info("x", 1, ["n", 1024])],
        [helper.make_tensor_value_info("y", 1, ["n", 1024])],
        [
            numpy_helper.from_array(random.standard_normal((1024, 1024)).astype(np.float32) / 32, f"w{name}")
            for name in names[:-1]
        ],
    )
    path = tmp_path / "large.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


_RUN = """
import json, sys
import numpy as np
import edgeai
from pathlib import Path
settings = edgeai.SessionSettings(huge_pages=sys.argv[2] == "huge", threads=1)
with edgeai.load(sys.argv[1], ep="cpu", settings=settings) as session:
    answer = session.run({"x": np.ones((2, 1024), np.float32)})
    rows = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    print(json.dumps([int(rows["AnonHugePages"].split()[0]) * 1024, answer["y"].tolist()]))
"""


@pytest.mark.skipif(not collapses(), reason="this kernel does not collapse memory into huge pages of 2 MiB")
def test_weights_move_and_answers_stay(large: Path) -> None:
    def ran(how: str) -> tuple[int, list[float]]:
        done = subprocess.run(
            [sys.executable, "-c", _RUN, str(large), how], capture_output=True, text=True, timeout=120, check=True
        )
        assert not done.stderr
        held, answer = json.loads(done.stdout)
        return held, answer

    (usual, expected), (moved, answer) = ran("usual"), ran("huge")
    assert answer == expected
    assert moved - usual >= WEIGHTS * 4 * MB // 2


def test_where_there_are_none_the_log_says_so(
    large: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def answers() -> list[str]:
        with caplog.at_level(logging.WARNING, "edgeai"):
            caplog.clear()
            with edgeai.load(large, ep="cpu", settings={"huge_pages": True}) as session:
                session.run({"x": np.zeros((1, 1024), np.float32)})
            return [record.message for record in caplog.records]

    with monkeypatch.context() as patched:
        patched.setattr(huge_pages, "_SIZE", tmp_path / "nothing")
        assert page_bytes() == 0
        assert answers() == ["huge_pages: this system has none; memory stays in small pages"]
    if page_bytes():
        monkeypatch.setattr(huge_pages, "_MADV_COLLAPSE", 9999)  # as kernels before 6.1 answer
        assert answers() == ["huge_pages: the kernel gave none (Invalid argument); memory stays in small pages"]


@given(st.integers(0, 100), st.integers(0, 100), st.integers(1, 9))
def test_pages_lie_wholly_within(begin: int, length: int, size: int) -> None:
    pages = list(huge_pages._pages((begin, begin + length), size))
    assert pages == [p for p in range(0, 300, size) if begin <= p and p + size <= begin + length]
