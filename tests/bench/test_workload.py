import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeai.bench.workload import NS, Workload
from edgeai.errors import UsageError
from edgeai.samples import Samples


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scenario": "edge"}, "unknown scenario 'edge' (use single, multi, server, offline)"),
        (
            {"scenario": "server"},
            "the server scenario needs a rate, or a latency_bound_ms to search the highest rate within",
        ),
        ({"scenario": "server", "rate": 0.0}, "rate must be a number above 0, got 0.0"),
        (
            {"scenario": "server", "rate": 9.0, "tail_percent": 98},
            "tail_percent must be one of 50, 90, 95, 97, 99, got 98",
        ),
        (
            {"scenario": "server", "rate": 9.0, "latency_bound_ms": 9.0},
            "a rate is given, so none is searched within latency_bound_ms; leave one out",
        ),
        ({"rate": 9.0}, "rate means nothing in scenario single (use server)"),
        (
            {"scenario": "offline", "latency_bound_ms": 9.0},
            "latency_bound_ms means nothing in scenario offline (use server)",
        ),
        ({"concurrency": 0}, "concurrency must be a whole number of at least 1, got 0"),
        (
            {"scenario": "multi", "concurrency": 2},
            "in scenario multi one caller sends the queries; leave concurrency at 1",
        ),
        ({"batch": 0}, "batch must be a whole number of at least 1, got 0"),
        ({"rounds": 2.5}, "rounds must be a whole number of at least 1, got 2.5"),
        ({"discarded_runs": -1}, "discarded_runs must be a whole number of at least 0, got -1"),
        ({"max_seconds": 0}, "max_seconds must be a number above 0, got 0"),
        ({"min_seconds": float("nan")}, "min_seconds must be a number of at least 0, got nan"),
        ({"max_seconds": float("inf")}, "max_seconds must be a number above 0, got inf"),
        ({"noise_floor": -0.1}, "noise_floor must be a number of at least 0, got -0.1"),
        ({"min_iterations": 9, "max_iterations": 8}, "min_iterations 9 is above max_iterations 8"),
        ({"min_seconds": 9.0, "max_seconds": 8.0}, "min_seconds 9.0 is above max_seconds 8.0"),
        ({"warmup_min_seconds": 99.0}, "warmup_min_seconds 99.0 is above warmup_max_seconds 10.0"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_reason(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Workload(**fields)
    assert str(caught.value) == f"workload: {message}"


def test_no_warm_up_settling_or_discarding_may_be_asked_for() -> None:
    none = Workload(warmup_min_seconds=0, warmup_max_seconds=0, settle_seconds=0, discarded_runs=0, min_seconds=0)
    assert none.discarded_runs == 0


def test_rows_become_full_batches_only() -> None:
    samples = Samples.from_rows({"x": np.arange(7)}, labels=np.arange(7))
    assert [feed["x"].tolist() for feed in Workload(batch=3).feeds(samples)] == [[0, 1, 2], [3, 4, 5]]
    assert len(Workload(batch=1).feeds(samples)) == 7


def test_feeds_are_contiguous_and_keep_their_shapes() -> None:
    ragged = [{"x": np.ones((2, 3)).T, "step": np.array(4)}, {"x": np.ones((1, 5)), "step": np.array(5)}]
    feeds = Workload().feeds(Samples.from_feeds(ragged))
    assert [feed["x"].shape for feed in feeds] == [(3, 2), (1, 5)]
    assert all(feed["x"].flags.c_contiguous for feed in feeds)
    assert feeds[0]["step"].shape == (), "a scalar input stays a scalar"


def test_a_batch_that_the_samples_cannot_give_is_refused() -> None:
    with pytest.raises(UsageError, match="batch 4 needs as many rows, the samples have 3"):
        Workload(batch=4).feeds(Samples.from_rows({"x": np.arange(3)}))
    with pytest.raises(UsageError, match="batch 2 cannot be made of samples that are complete feeds"):
        Workload(batch=2).feeds(Samples.from_feeds([{"x": np.arange(3)}] * 2))


@pytest.mark.parametrize(
    ("run_ns", "runs"),
    [
        (1_000_000, 300),  # 3 s of 1 ms runs in 10 blocks
        (100_000_000, 67),  # 662 iterations in 10 blocks
        (0, 2_000),  # max_iterations in 10 blocks
    ],
)
def test_block_size_follows_the_speed(run_ns: int, runs: int) -> None:
    assert Workload().block_runs(run_ns) == runs


@given(st.integers(0, 40), st.integers(0, 40_000), st.integers(0, 100 * NS), st.integers(1, 5), st.integers(1, 5 * NS))
def test_more_never_makes_a_finished_subject_unfinished(
    blocks: int, iterations: int, elapsed_ns: int, more: int, more_ns: int
) -> None:
    workload = Workload()
    if workload.finished(blocks, iterations, elapsed_ns):
        assert workload.finished(blocks + 1, iterations + more, elapsed_ns + more_ns)


def test_enough_is_all_three_and_the_limits_are_hard() -> None:
    workload = Workload(rounds=10, min_iterations=100, max_iterations=500, min_seconds=1, max_seconds=5)
    assert workload.finished(10, 100, NS)
    assert not workload.finished(9, 100, NS)
    assert not workload.finished(10, 99, NS)
    assert not workload.finished(10, 100, NS - 1)
    assert workload.finished(1, 500, 0)
    assert workload.finished(1, 1, 5 * NS)
