"""The worker's side of the protocol, in this process."""

import dataclasses
import io
import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import bench_engines
import pytest

from edgeai.bench import worker
from edgeai.bench.workload import Workload
from edgeai.samples import Samples


def answers(*commands: dict[str, Any]) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []
    worker.serve([json.dumps(command) for command in commands], lambda reply: sent.append(dict(reply)))
    return sent


def build(path: Path, factory: str, **fields: Any) -> dict[str, Any]:
    workload = Workload(warmup_min_seconds=0, warmup_max_seconds=0.01)
    return {
        "do": "build",
        "factory": factory,
        "arguments": {},
        "preload": "",
        "files": [],
        "samples": str(path),
        "workload": dataclasses.asdict(workload),
        **fields,
    }


def test_every_command_has_its_answer(samples_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = bench_engines.Engine()
    monkeypatch.setattr(bench_engines, "sleeping", lambda: engine)
    built, warm, block, finished = answers(
        build(samples_path, "bench_engines:sleeping"),
        {"do": "warm_up"},
        {"do": "block", "runs": 5, "budget_ns": 10**9, "discard": 0},
        {"do": "finish", "again": False},
    )
    assert set(built["reply"]) == {"phases", "baseline_rss_bytes", "ran", "energy"}
    assert set(built["reply"]["phases"]) == {"import_ns", "create_ns", "first_inference_ns", "read_ns"}
    assert built["peak_rss_bytes"] > 2**20
    assert warm["reply"]["runs"] > 0
    assert len(block["reply"]["samples_ns"]) == 5
    assert finished["reply"] == {"create_warm_ns": None}
    assert engine.closed


def test_files_are_read_and_a_second_engine_is_timed(samples_path: Path) -> None:
    built, finished = answers(
        build(samples_path, "bench_engines:sleeping", files=[str(samples_path)]), {"do": "finish", "again": True}
    )
    assert built["reply"]["phases"]["read_ns"] > 0
    assert finished["reply"]["create_warm_ns"] > 0


def test_answers_are_written_as_samples(samples_path: Path, tmp_path: Path) -> None:
    answers(
        build(samples_path, "bench_engines:sleeping"), {"do": "answer", "path": str(tmp_path / "y.npz"), "count": 2}
    )
    found = list(Samples.load(tmp_path / "y.npz").feeds())
    assert [feed["y"].tolist() for feed in found] == [[[0, 2]], [[4, 6]]]


def test_a_server_is_paced_and_gives_up_when_it_cannot_be_saved(samples_path: Path) -> None:
    plan = dataclasses.asdict(Workload(scenario="server", latency_bound_ms=1, warmup_max_seconds=0.3))
    surrender = {"bound_ns": 0, "allowed": 3}
    _, _, lost, _, whole = answers(
        build(samples_path, "bench_engines:sleeping", workload=plan),
        {"do": "pace", "rate": 50_000.0, "surrender": surrender},
        {"do": "block", "runs": 40, "budget_ns": 10**9, "discard": 0},
        {"do": "pace", "rate": 50_000.0, "surrender": None},
        {"do": "block", "runs": 40, "budget_ns": 10**9, "discard": 0},
    )
    assert len(lost["reply"]["samples_ns"]) == 4
    assert len(whole["reply"]["samples_ns"]) == 40
    assert whole["reply"]["wall_ns"] > 0


def test_preload_is_called_first(samples_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_engines, "PRELOADED", [])
    (built,) = answers(build(samples_path, "bench_engines:preloaded", preload="bench_engines:preload"))
    assert built["reply"]["phases"]["import_ns"] >= 50_000_000


def test_errors_are_answers_and_bugs_are_not(samples_path: Path) -> None:
    refused, odd = answers(
        build(samples_path, "bench_engines:refusing"), build(samples_path, "bench_engines:not_an_engine")
    )
    assert refused == {"error": ["ProviderError", "cuda does not run here", "use cpu"]}
    assert odd["error"][:2] == ["BenchmarkError", "bench_engines:not_an_engine returned object, which is not an engine"]
    with pytest.raises(ValueError, match="no such kernel"):
        answers(build(samples_path, "bench_engines:broken"))


def test_the_end_of_the_commands_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: queue.SimpleQueue[int] = queue.SimpleQueue()
    monkeypatch.setattr(os, "_exit", codes.put)
    lines = worker._until_eof(io.StringIO("one\ntwo\n"))
    assert [next(lines), next(lines)] == ["one\n", "two\n"]
    assert codes.get(timeout=10) == 0


def test_main_moves_the_protocol_out_of_a_library_s_reach(samples_path: Path) -> None:
    """Without the parent's class: the bytes are the interface."""
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeai.bench.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)},
    )
    alarm = threading.Timer(60, process.kill)
    alarm.start()
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        for factory in ("talkative", "refusing"):
            process.stdin.write(json.dumps(build(samples_path, f"bench_engines:{factory}")).encode() + b"\n")
        process.stdin.flush()
        assert "create_ns" in json.loads(process.stdout.readline())["reply"]["phases"]
        refused = process.stdout.readline()
        rest, errors = process.communicate(timeout=20)
    alarm.cancel()
    assert refused == b'{"error": ["ProviderError", "cuda does not run here", "use cpu"]}\n'
    assert rest == b""
    assert b"banner of a library" in errors
    assert b"chatter" in errors
    assert process.returncode == 0
