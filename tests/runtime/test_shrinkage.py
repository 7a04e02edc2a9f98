"""Memory that a burst needed goes back when the burst is over."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeai.runtime.settings import SessionSettings
from edgeai.runtime.shrinkage import Shrinkage, run_options, shrinking


def _due(shrinkage: Shrinkage, *sizes: int) -> list[int]:
    return [index for index, size in enumerate(sizes) if shrinkage.due(size)]


def test_a_burst_is_over_after_sixteen_small_runs_in_a_row() -> None:
    assert _due(Shrinkage(SessionSettings()), 100, *[6400] * 3, *[100] * 50) == [19]
    assert _due(Shrinkage(SessionSettings()), *([6400] + [100] * 15) * 4) == []
    assert _due(Shrinkage(SessionSettings()), *[100] * 100, *[51] * 100) == []
    assert _due(Shrinkage(SessionSettings()), *[100] * 100, *[50] * 100) == [115]


def test_the_other_policies() -> None:
    assert _due(Shrinkage(SessionSettings(shrink="always")), 5, 50, 5) == [0, 1, 2]
    for settings in (SessionSettings(shrink="never"), SessionSettings(shrink="always", arena=False)):
        assert _due(Shrinkage(settings), 6400, *[1] * 50) == []


def test_options_say_to_shrink_the_arena() -> None:
    key = "memory.enable_memory_arena_shrinkage"
    assert shrinking().get_run_config_entry(key) == "cpu:0"
    options = run_options()
    assert shrinking(options) is options and options.get_run_config_entry(key) == "cpu:0"


_BURST = """
import json, sys
import numpy as np
from edgeai.runtime.session import Session
from edgeai.runtime.settings import SessionSettings
def rss():
    with open("/proc/self/statm") as stream: return int(stream.read().split()[1]) * 4096
one, many = np.zeros((1, 3, 32, 32), np.float32), np.zeros((64, 3, 32, 32), np.float32)
with Session(sys.argv[1], ep="cpu", settings=SessionSettings(threads=1, shrink=sys.argv[2])) as session:
    for _ in range(20): session.run({"x": one})
    before = rss()
    session.run({"x": many})
    burst = rss()
    for _ in range(100): session.run({"x": one})
    print(json.dumps([before, burst, rss()]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
def test_memory_is_back_after_a_burst(tmp_path: Path) -> None:
    weights = [np.random.default_rng(0).normal(size=(32, k, 3, 3)).astype(np.float32) for k in (3, 32, 32)]
    nodes = [helper.make_node("Conv", [f"h{i}", f"w{i}"], [f"h{i + 1}"], pads=[1, 1, 1, 1]) for i in range(3)]
    nodes[0].input[0], nodes[-1].output[0] = "x", "y"
    shape = ["batch", 3, 32, 32]
    graph = helper.make_graph(
        nodes, "convolutions",
        [helper.make_tensor_value_info("x", 1, shape)], [helper.make_tensor_value_info("y", 1, ["batch", 32, 32, 32])],
        [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)],
    )  # fmt: skip
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    grown = {}
    for policy in ("burst", "always", "never"):
        command = [sys.executable, "-c", _BURST, str(path), policy]
        said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        before, _, after = map(int, said.strip("[] \n").split(","))
        grown[policy] = (after - before) / before
    assert grown["burst"] < 0.2 and grown["always"] < 0.2
    assert grown["never"] > grown["burst"]
