"""Real worker processes."""

import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeai.bench.subject import Subject, WorkerProcess
from edgeai.bench.workload import NS, Workload
from edgeai.errors import BenchmarkError, DataError, InputError, ProviderError, UsageError
from edgeai.samples import Samples

QUICK = Workload(warmup_min_seconds=0, warmup_max_seconds=0.05)


def subject(function: str, **arguments: Any) -> Subject:
    return Subject(function, f"bench_engines:{function}", arguments)


@pytest.fixture
def hung(samples_path: Path, tmp_path: Path) -> Iterator[WorkerProcess]:
    """A worker in the middle of a run that does not end."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)  # it does not wait for a writer, select does
    with WorkerProcess(subject("hanging", fifo=str(fifo))) as worker:
        worker.build(samples_path, QUICK)
        assert worker._process.stdin is not None
        worker._process.stdin.write('{"do": "warm_up"}\n')
        worker._process.stdin.flush()
        assert select.select([reader], [], [], 20)[0]
        assert worker._process.poll() is None
        yield worker
    os.close(reader)


@pytest.mark.parametrize("factory", ["", "module", "module:", ":function", "a b:c", "module:function()"])
def test_a_factory_is_module_and_function(factory: str) -> None:
    with pytest.raises(UsageError, match="subject 'x': factory must be 'module:function'"):
        Subject("x", factory)
    if factory:
        with pytest.raises(UsageError, match="subject 'x': preload must be 'module:function'"):
            Subject("x", "module:function", preload=factory)


@pytest.mark.parametrize("value", [object(), float("nan"), Path("m.onnx")])
def test_arguments_must_be_json(value: object) -> None:
    with pytest.raises(UsageError, match="subject 'x': arguments cannot be sent as JSON"):
        Subject("x", "module:function", {"value": value})


def test_arguments_are_kept_as_they_arrive() -> None:
    assert Subject("x", "module:function", {"shape": (1, 2)}).arguments == {"shape": [1, 2]}


def test_a_worker_builds_warms_up_runs_and_ends(samples_path: Path) -> None:
    with WorkerProcess(subject("sleeping", seconds=0.002)) as worker:
        phases = worker.build(samples_path, QUICK)
        assert phases.import_ns is not None
        assert phases.first_inference_ns >= 2_000_000
        assert worker.warm_up().median_ns >= 2_000_000
        block = worker.block(4, budget_ns=NS, discard=1)
        assert len(block.samples_ns) == 4
        assert min(block.samples_ns) >= 2_000_000
        assert worker.block(100, budget_ns=1).samples_ns[1:] == ()
        worker.finish()
        pid = worker.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)  # reaped, not even a zombie


def test_cpu_time_is_that_of_the_timed_runs(samples_path: Path) -> None:
    with WorkerProcess(subject("spinning", seconds=0.01)) as worker:
        worker.build(samples_path, QUICK)
        busy = worker.block(5, budget_ns=NS, discard=5).cpu_ns
    assert 50_000_000 <= busy < 90_000_000


def test_preloading_counts_as_import(samples_path: Path) -> None:
    with WorkerProcess(Subject("x", "bench_engines:preloaded", preload="bench_engines:preload")) as worker:
        phases = worker.build(samples_path, QUICK)
    assert phases.import_ns is not None
    assert phases.import_ns >= 50_000_000


def test_peak_memory_sees_an_allocation_in_the_child(samples_path: Path) -> None:
    with WorkerProcess(subject("allocating", size_bytes=200_000_000)) as worker:
        worker.build(samples_path, QUICK)
        assert worker.peak_rss_bytes is not None
        assert worker.baseline_rss_bytes is not None
        assert 195_000_000 < worker.peak_rss_bytes - worker.baseline_rss_bytes < 260_000_000


def test_what_a_library_prints_does_not_reach_the_protocol(samples_path: Path) -> None:
    with WorkerProcess(subject("talkative")) as worker:
        worker.build(samples_path, QUICK)
        assert len(worker.block(3, budget_ns=NS).samples_ns) == 3


def test_errors_of_the_factory_keep_their_kind_and_hint(samples_path: Path) -> None:
    with (
        WorkerProcess(subject("refusing")) as worker,
        pytest.raises(ProviderError, match=r"^subject 'refusing': cuda does not run here \(use cpu\)$"),
    ):
        worker.build(samples_path, QUICK)


def test_inputs_that_do_not_fit_name_the_subject(tmp_path: Path) -> None:
    import numpy as np

    Samples.from_rows({"x": np.zeros((2, 5), np.float32)}).save(tmp_path / "wrong.npz")
    with WorkerProcess(subject("sleeping")) as worker:
        with pytest.raises(InputError, match="subject 'sleeping': input x: axis 1 must be 2, got 5"):
            worker.build(tmp_path / "wrong.npz", QUICK)
        with pytest.raises(DataError, match="subject 'sleeping': .*nowhere.npz: no such file"):
            worker.build(tmp_path / "nowhere.npz", QUICK)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("broken", "its process ended with exit code 1: ValueError: no such kernel: 42"),
        ("quitting", "its process ended with exit code 7: nothing on stderr"),
        ("absent", "its process ended with exit code 1: AttributeError: .*has no attribute 'absent'"),
        ("not_an_engine", "bench_engines:not_an_engine returned object, which is not an engine"),
    ],
)
def test_a_build_that_fails_names_the_subject_and_the_cause(samples_path: Path, function: str, message: str) -> None:
    with (
        WorkerProcess(subject(function)) as worker,
        pytest.raises(BenchmarkError, match=f"^subject '{function}': {message}"),
    ):
        worker.build(samples_path, QUICK)


def test_a_killed_worker_is_told_with_its_last_words(samples_path: Path) -> None:
    with WorkerProcess(subject("dying", after_runs=3)) as worker:
        worker.build(samples_path, QUICK)
        with pytest.raises(BenchmarkError, match="was killed by SIGKILL: allocating 12 GiB .*memory runs out"):
            worker.block(10, budget_ns=NS)
        with pytest.raises(BenchmarkError, match="subject 'dying': its process was killed"):
            worker.block(10, budget_ns=NS)  # and again, though nobody reads the pipe any more


def test_a_hung_engine_ends_with_its_parent_s_pipe(hung: WorkerProcess) -> None:
    assert hung._process.stdin is not None
    hung._process.stdin.close()
    assert hung._process.wait(timeout=10) == 0


def test_leaving_kills_what_hangs(hung: WorkerProcess) -> None:
    hung.__exit__(None, None, None)
    with pytest.raises(ProcessLookupError):
        os.kill(hung.pid, 0)
