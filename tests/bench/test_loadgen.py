"""MLPerf's LoadGen as the oracle: what it says of its own latencies, our functions say of the same latencies.

Its trace holds every latency in ns, so that the figures can be compared exactly.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeai.bench.arrivals import waiting
from edgeai.bench.capacity import meets
from edgeai.bench.noise import QUIET, Disturbance, judge, observe
from edgeai.bench.statistics import early_stopping, percentile, statistics
from edgeai.machine import machine

pytest.importorskip(
    "mlperf_loadgen", reason="MLPerf's LoadGen is not installed (pip install mlcommons-loadgen==6.0.17)"
)

_SAMPLE = re.compile(r'"name":"Sample".*"ph":"b".*"ts":([\d.]+),.*"sample_seq":(\d+),.*"complete_ns":(\d+)')
DRIVER = Path(__file__).with_name("loadgen_driver.py")


Driven = Callable[..., "Run"]


@dataclass(frozen=True)
class Run:
    """`latencies` in ns (n,) from each query's scheduled time, `arrivals` that time, in the order of arrival."""

    summary: str
    latencies: np.ndarray
    arrivals: np.ndarray
    services: list[int]
    ours: list[dict[str, Any]]
    disturbance: Disturbance

    def said(self, label: str) -> int:
        found = re.search(rf"{re.escape(label)}\s*:\s*(\d+)", self.summary)
        assert found, f"{label} is not in {self.summary}"
        return int(found[1])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three products of 384 x 384 matrices with 64 rows: about a millisecond."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    names = ["x", "a", "b", "y"]
    weights = [
        onnx.numpy_helper.from_array(np.eye(384, dtype=np.float32) + np.float32(0.01 * i), f"w{i}") for i in range(3)
    ]
    graph = helper.make_graph(
        [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(3)],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [64, 384])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [64, 384])],
        weights,
    )
    path = tmp_path_factory.mktemp("loadgen") / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def driven(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Driven:
    """Scenario (and what the server's p99 may be) -> one run of LoadGen between two of ours, on one session."""
    return cache(lambda scenario, bound_ms=1000.0: _drive(model, scenario, tmp_path_factory.mktemp("log"), bound_ms))


def _drive(model: Path, scenario: str, out: Path, bound_ms: float) -> Run:
    before, begin = observe(), time.monotonic()
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(model), scenario, str(out), str(bound_ms)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)},
    )
    assert done.returncode == 0, done.stderr
    disturbance = judge(before, observe(), seconds=time.monotonic() - begin, cores=machine().cores)
    # Line by line: LoadGen's trace as a whole is not always JSON.
    samples = sorted(
        (int(sequence), int(complete_ns), round(float(us) * 1000))
        for us, sequence, complete_ns in _SAMPLE.findall((out / "mlperf_log_trace.json").read_text())
    )
    assert [sequence for sequence, _, _ in samples] == list(range(len(samples)))
    told = json.loads(done.stdout.splitlines()[-1])
    return Run(
        (out / "mlperf_log_summary.txt").read_text(),
        np.array([complete_ns for _, complete_ns, _ in samples]),
        np.array([arrival_ns for _, _, arrival_ns in samples]),
        told["services_ns"],
        told["ours"],
        disturbance,
    )


def check_percentiles(run: Run) -> None:
    for percent in (50, 90, 95, 99):
        assert percentile(run.latencies, percent).value == run.said(f"{percent}.00 percentile latency (ns)")
    found = statistics(run.latencies)
    assert found["min"].value == run.said("Min latency (ns)")
    assert int(found["mean"].value or 0) == run.said("Mean latency (ns)")


def test_single_figures(driven: Driven) -> None:
    run = driven("single")
    check_percentiles(run)
    assert early_stopping(run.latencies, 90).value == run.said("Early stopping 90.0th percentile estimate")
    assert early_stopping(run.latencies, 99).value == run.said("Early stopping 99.0th percentile estimate")


@pytest.mark.parametrize("bound_ms", [1000.0, 0.001])
def test_server_figures(driven: Driven, bound_ms: float) -> None:
    run = driven("server", bound_ms)
    check_percentiles(run)
    assert meets(run.latencies.tolist(), int(bound_ms * 1e6), 99) == ("Result is : VALID" in run.summary)
    # A queue with LoadGen's arrivals and the engine's own times; what it takes to hand a query over comes on top.
    own = np.array(waiting(run.arrivals.tolist(), run.services))
    assert (run.latencies >= own - 1000).all(), "the trace writes arrivals to the microsecond's third digit"


def test_offline_figures(driven: Driven) -> None:
    run = driven("offline")
    found = statistics(run.latencies, duration_ns=int(run.latencies.max()))["throughput"]
    assert found.value == pytest.approx(samples_per_second(run), rel=1e-4)


@pytest.mark.parametrize("scenario", ["single", "server", "offline"])
def test_the_same_session_under_our_own_loop(driven: Driven, scenario: str) -> None:
    """Two measurements of one session agree where nothing else ran; what that is says our own verdict."""
    run = driven(scenario)
    if run.disturbance.verdict != QUIET:
        pytest.skip(f"the machine was {run.disturbance.verdict}: {'; '.join(run.disturbance.evidence)}")
    if scenario == "offline":
        theirs, ours = samples_per_second(run), [len(b["samples_ns"]) * 1e9 / b["duration_ns"] for b in run.ours]
    else:
        theirs, ours = float(np.median(run.latencies)), [float(np.median(block["samples_ns"])) for block in run.ours]
    assert min(ours) / 1.5 < theirs < max(ours) * 1.5


def samples_per_second(run: Run) -> float:
    rate = re.search(r"Samples per second: ([\d.]+)", run.summary)
    assert rate
    return float(rate[1])
