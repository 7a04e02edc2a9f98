import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_engines import Engine, FakeClock, timed

from edgeai.bench import Report, Subject, Workload, benchmark, course, measure
from edgeai.bench.interleave import Recording
from edgeai.bench.interleave import interleave as course_interleave
from edgeai.bench.statistics import FASTER, NOT_RESOLVED, SLOWER
from edgeai.errors import BenchmarkError, DataError, UsageError
from edgeai.samples import Samples

QUICK = Workload(
    min_iterations=30,
    max_iterations=60,
    min_seconds=0,
    max_seconds=20,
    rounds=6,
    warmup_min_seconds=0,
    warmup_max_seconds=0.05,
    settle_seconds=0,
)


def sleeping(name: str, seconds: float, **fields: Any) -> Subject:
    return Subject(name, "bench_engines:sleeping", {"seconds": seconds}, **fields)


def test_subjects_are_compared_in_their_own_processes(samples_path: Path) -> None:
    report = measure(
        [sleeping("reference", 0.004), sleeping("slow", 0.016), sleeping("fast", 0.0005, size_bytes=2**20)],
        samples_path,
        QUICK,
    )
    assert [subject.verdict for subject in report.subjects] == ["", SLOWER, FASTER]
    assert report["reference"].ratio is None
    assert report["slow"].ratio is not None
    assert report["slow"].ratio.value > 2
    assert report["fast"].size_bytes == 2**20
    assert sorted(report.order) == sorted(["reference", "slow", "fast"] * 6)
    for result in report.subjects:
        assert len(result.samples_ns) == 30
        assert result.statistics["p50"].value is not None
        assert result.statistics["p99"].reason == "p99 needs 662 samples, got 30"
        assert result.phases.first_inference_ns >= result.arguments["seconds"] * 1e9
        assert result.peak_rss_bytes is not None
        assert result.peak_rss_bytes > 10_000_000
        assert result.cpu_seconds_per_inference is not None
        assert result.cpu_seconds_per_inference < 0.01, "sleeping uses no CPU"
    assert not report.interrupted
    assert "MLPerf asks for 600 s" in report.short
    assert report.started_at <= report.finished_at
    assert report.machine.versions["numpy"] == np.__version__


def test_rounds_are_shared_among_fresh_processes(samples_path: Path) -> None:
    workload = dataclasses.replace(QUICK, processes=3)
    report = measure([sleeping("a", 0.001), sleeping("b", 0.003)], samples_path, workload, thorough=True)
    for result in report.subjects:
        assert result.processes == [0, 0, 1, 1, 2, 2]
        assert len(result.starts) == 3
        assert result.phases == result.starts[0]
        assert len(result.samples_ns) == 30
    assert report["b"].verdict == SLOWER
    assert report["a"].accuracy is None
    assert report["b"].accuracy is not None and report["b"].accuracy.error == 0.0
    assert [start.create_warm_ns is None for start in report["a"].starts][1:] == [True, True]
    assert report["a"].phases.create_warm_ns is not None
    assert 0 < report.overhead_ns < 20_000


def test_ctrl_c_in_a_later_process_keeps_the_earlier_ones(samples_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def interleave(*arguments: Any, **options: Any) -> Recording:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return course_interleave(*arguments, **options)

    monkeypatch.setattr(course, "interleave", interleave)
    report = measure([sleeping("a", 0.001)], samples_path, dataclasses.replace(QUICK, processes=3))
    assert report.interrupted
    assert report["a"].processes == [0, 0]
    assert Report.from_json(report.to_json()) == report


def test_answers_that_differ_stand_beside_the_speed(samples_path: Path) -> None:
    subjects = [Subject("a", "bench_engines:sleeping"), Subject("b", "bench_engines:wrong")]
    found = measure(subjects, samples_path, QUICK, thorough=True)["b"].accuracy
    assert found is not None
    assert (found.reference, found.feeds) == ("a", 3)
    assert found.error is not None and found.error > 0.1
    assert found.cosine is not None and found.cosine < 1


def test_a_server_s_rate_is_searched_and_then_kept(samples_path: Path) -> None:
    workload = dataclasses.replace(QUICK, scenario="server", latency_bound_ms=500.0, tail_percent=50)
    result = measure([sleeping("a", 0.002)], samples_path, workload)["a"]
    assert result.capacity is not None and result.capacity.rate is not None
    assert 1 < result.capacity.rate < 500, "two milliseconds each: five hundred a second at most"
    assert any(trial.valid for trial in result.capacity.trials)
    assert all(block.wall_ns for block in result.blocks)
    assert result.early_stopping is not None


def test_a_bound_that_nothing_keeps_is_told(samples_path: Path) -> None:
    workload = dataclasses.replace(QUICK, scenario="server", latency_bound_ms=0.1, tail_percent=50)
    with pytest.raises(BenchmarkError, match=r"subject 'a': p50 is above 0.1 ms at every rate from .* to"):
        measure([sleeping("a", 0.002)], samples_path, workload)


def test_a_search_without_time_for_enough_queries_says_that(samples_path: Path) -> None:
    workload = dataclasses.replace(QUICK, scenario="server", latency_bound_ms=60_000.0, max_seconds=0.001)
    with pytest.raises(BenchmarkError, match=r"arrive within max_seconds 0.001, too few to judge p99 .*max_seconds"):
        measure([sleeping("a", 0.002)], samples_path, workload)


def test_callers_beside_each_other_answer_more(samples_path: Path) -> None:
    workload = dataclasses.replace(QUICK, scenario="offline", concurrency=4)
    result = measure([sleeping("a", 0.02)], samples_path, workload)["a"]
    assert len(result.samples_ns) >= 30
    assert min(result.samples_ns) >= 20_000_000
    assert sum(block.duration_ns for block in result.blocks) < sum(result.samples_ns)


def test_here_a_rate_cannot_be_searched(samples: Samples) -> None:
    with pytest.raises(UsageError, match="needs a process of its own"):
        benchmark(Engine(), dataclasses.replace(QUICK, scenario="server", latency_bound_ms=1.0), samples)


def test_one_subject_is_the_plain_benchmark(samples_path: Path) -> None:
    report = measure([sleeping("only", 0.001)], samples_path, QUICK)
    assert report.order == ("only",) * 6
    assert report["only"].verdict == ""


@pytest.mark.parametrize("names", [[], ["a", "a"]])
def test_subjects_must_be_tellable_apart(samples_path: Path, names: list[str]) -> None:
    with pytest.raises(UsageError, match="at least one subject, and different names"):
        measure([sleeping(name, 0) for name in names], samples_path, QUICK)


def test_unreadable_samples_are_refused_before_a_process_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(DataError, match="missing.npz: no such file"):
        measure([sleeping("a", 0)], tmp_path / "missing.npz", QUICK)


def test_a_subject_that_dies_ends_the_measurement_by_name(samples_path: Path) -> None:
    dying = Subject("weak", "bench_engines:dying", {"after_runs": 40})
    with pytest.raises(BenchmarkError, match="subject 'weak': its process was killed by SIGKILL: allocating 12 GiB"):
        measure([sleeping("healthy", 0), dying], samples_path, QUICK)


def test_a_crash_on_closing_costs_no_measurement(samples_path: Path) -> None:
    report = measure([Subject("x", "bench_engines:unclosable")], samples_path, QUICK)
    assert len(report["x"].blocks) == 6
    assert any(
        warning.startswith("after the measurement: subject 'x': its process ended with exit code 1")
        and "RuntimeError: double free" in warning
        for warning in report.warnings
    )


def test_an_engine_here_is_measured_to_the_nanosecond(clock: FakeClock, samples: Samples) -> None:
    engine = timed(clock, [5000, *[1000] * 30, *[100, 300] * 100])
    report = benchmark(engine, QUICK, samples, name="fake", clock=clock)
    result = report["fake"]
    assert (result.phases.import_ns, result.phases.create_ns, result.phases.first_inference_ns) == (None, None, 5000)
    assert result.warm_up.stable
    assert [len(block.samples_ns) for block in result.blocks] == [5] * 6
    assert sorted(set(result.samples_ns.tolist())) == [100, 300]
    assert result.statistics["mean"].value == 200
    assert result.statistics["throughput"].value == pytest.approx(5e6)
    assert result.peak_rss_bytes is None
    assert not engine.closed, "it was not ours to close"


def test_ctrl_c_here_keeps_what_was_measured(clock: FakeClock, samples: Samples) -> None:
    runs = iter(range(60))

    def work() -> None:
        clock.now_ns += 1000
        if next(runs, None) is None:
            raise KeyboardInterrupt

    report = benchmark(Engine(work), QUICK, samples, clock=clock)
    assert report.interrupted
    assert 1 <= len(report["engine"].blocks) < 6
    assert Report.from_json(report.to_json()) == report


def test_a_single_input_is_doubted(clock: FakeClock) -> None:
    one = Samples.from_rows({"x": np.zeros((1, 2), np.float32)})
    report = benchmark(timed(clock, [10]), QUICK, one, clock=clock)
    assert any("every run had the same input" in warning for warning in report.warnings)


def test_a_single_input_of_a_sweep_is_doubted_too(samples_path: Path) -> None:
    """Three rows are one batch of three."""
    subjects = [sleeping(f"batch={n}", 0, batch=n, samples_path=str(samples_path), point=str(n)) for n in (1, 3)]
    report = measure(subjects, samples_path, QUICK)
    assert any("every run had the same input" in warning for warning in report.warnings)


PARENT = """
import contextlib, signal, sys
from edgeai.bench import Subject, Workload, measure

# A shell's background jobs inherit an ignored SIGINT; a person at a terminal does not.
signal.signal(signal.SIGINT, signal.default_int_handler)

class Telling:
    @contextlib.contextmanager
    def task(self, label, total):
        yield lambda n=1, note="": print(label, note, flush=True)

workload = Workload(min_seconds=60, max_seconds=60, rounds=600, warmup_min_seconds=0, warmup_max_seconds=0.05,
                    settle_seconds=0.001)
subjects = [Subject(name, "bench_engines:sleeping", {"seconds": 0.001}) for name in ("a", "b")]
report = measure(subjects, sys.argv[1], workload, progress=Telling())
report.save(sys.argv[2])
"""


@pytest.fixture
def parent(samples_path: Path, tmp_path: Path) -> Any:
    """A real process in the middle of `measure`, both subjects having run."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(samples_path), str(tmp_path / "report.json")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        process_group=0,
    )
    assert process.stdout is not None
    alarm = threading.Timer(60, process.kill)  # the lines end then, and the tests find no workers
    alarm.start()
    measured: set[str] = set()
    for line in process.stdout:
        label, _, name = line.strip().partition(" ")
        if label == "measuring":
            measured.add(name)
        if len(measured) == 2:
            break
    alarm.cancel()
    yield process
    process.kill()
    process.communicate()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def ended(watched: list[int]) -> bool:
    """Do the processes of these file descriptors (pidfd_open(2)) end?"""
    try:
        return all(select.select([one], [], [], 10)[0] for one in watched)
    finally:
        for one in watched:
            os.close(one)


needs_proc = pytest.mark.skipif(
    not (Path("/proc/self/task").exists() and hasattr(os, "pidfd_open")), reason="needs Linux's /proc and pidfd_open"
)


@needs_proc
def test_ctrl_c_in_a_comparison_saves_it_and_leaves_no_process(parent: Any, tmp_path: Path) -> None:
    workers = children(parent.pid)
    assert len(workers) == 2
    assert not {os.getpgid(worker) for worker in workers} & {parent.pid}, "a terminal's Ctrl-C must not reach them"
    watched = [os.pidfd_open(worker) for worker in workers]
    os.killpg(parent.pid, signal.SIGINT)
    _, errors = parent.communicate(timeout=20)
    assert parent.returncode == 0, errors
    report = Report.load(tmp_path / "report.json")
    assert report.interrupted
    assert all(result.blocks for result in report.subjects)
    assert report["b"].verdict in (NOT_RESOLVED, FASTER, SLOWER)
    assert json.loads((tmp_path / "report.json").read_text())["interrupted"] is True
    assert ended(watched)


@needs_proc
def test_a_killed_parent_leaves_no_orphans_and_no_half_report(parent: Any, tmp_path: Path) -> None:
    workers = children(parent.pid)
    assert len(workers) == 2
    watched = [os.pidfd_open(worker) for worker in workers]
    parent.kill()
    assert ended(watched)
    assert not list(tmp_path.glob("report*"))
