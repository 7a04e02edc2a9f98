import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeai.bench.arrivals import poisson, waiting
from edgeai.bench.capacity import meets, search_rate
from edgeai.bench.statistics import allowed_over, early_stopping, minimum_samples
from edgeai.bench.workload import NS

MS = 1_000_000


def exact_tail(n: int, over: int, percent: int) -> float:
    """P(at most `over` of n lie above the percentile), term by term in whole numbers."""
    from fractions import Fraction
    from math import comb

    p = Fraction(percent, 100)
    return float(sum(comb(n, k) * (1 - p) ** k * p ** (n - k) for k in range(over + 1)))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 400), st.sampled_from([50, 90, 95, 99]))
def test_the_allowance_is_the_largest_that_the_binomial_grants(n: int, percent: int) -> None:
    allowed = allowed_over(n, percent)
    if allowed is None:
        assert exact_tail(n, 0, percent) > 0.01
    else:
        assert exact_tail(n, allowed, percent) <= 0.01
        assert allowed == n or exact_tail(n, allowed + 1, percent) > 0.01


@pytest.mark.parametrize(("percent", "none", "one"), [(90, 44, 64), (95, 90, 130), (97, 152, 219), (99, 459, 662)])
def test_the_fewest_queries_are_those_of_mlperf(percent: int, none: int, one: int) -> None:
    assert (allowed_over(none - 1, percent), allowed_over(none, percent)) == (None, 0)
    assert (allowed_over(one - 1, percent), allowed_over(one, percent)) == (0, 1)
    assert minimum_samples(percent) == one


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 10**9), min_size=64, max_size=300))
def test_the_estimate_discards_what_is_allowed_but_one(samples: list[int]) -> None:
    found = early_stopping(np.array(samples), 90)
    allowed = allowed_over(len(samples), 90)
    assert allowed is not None
    rest = sorted(samples)
    for _ in range(allowed - 1):
        rest.pop()
    assert found.value == max(rest)
    assert found.value >= np.quantile(samples, 0.9, method="inverted_cdf"), "an upper bound"


def test_too_few_have_no_estimate() -> None:
    assert early_stopping(np.arange(63), 90).reason == "p90 needs 64 samples, got 63"
    assert early_stopping(np.arange(0), 90).value is None


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 100), min_size=0, max_size=200), st.integers(1, 100))
def test_a_trial_is_valid_where_counting_says_so(samples: list[int], bound: int) -> None:
    over = len([s for s in samples if s > bound])
    expected = bool(samples) and exact_tail(len(samples), over, 90) <= 0.01
    assert meets(samples, bound, 90) == expected


def simulated(service_ns: int, runs: int = 700) -> "tuple[list[float], object]":
    tried: list[float] = []

    def serve(rate: float) -> list[int]:
        tried.append(rate)
        return waiting(poisson(rate, runs, seed=(7, len(tried))), [service_ns] * runs)

    return tried, serve


def test_the_search_ends_where_a_simulated_queue_breaks() -> None:
    """A server of 1 ms, p99 within 5 ms: a queue with constant service keeps that up to 0.62 of its ceiling."""
    tried, serve = simulated(MS, runs=5000)
    found = search_rate(serve, ceiling=NS / MS, bound_ns=5 * MS, percent=99)  # type: ignore[arg-type]
    assert found.rate is not None and found.refused is not None
    assert 500 < found.rate < found.refused < 680
    assert found.refused / found.rate <= 1.05
    assert [trial.rate for trial in found.trials] == tried
    assert all(trial.valid == meets(trial.samples_ns, 5 * MS, 99) for trial in found.trials)
    assert found.rate == max(trial.rate for trial in found.trials if trial.valid)


def test_a_bound_below_the_service_time_is_kept_at_no_rate() -> None:
    tried, serve = simulated(MS)
    found = search_rate(serve, ceiling=1000, bound_ns=MS // 2, percent=99)  # type: ignore[arg-type]
    assert found.rate is None
    assert tried == [500, 250, 125, 62.5, 31.25]
    assert found.refused == 31.25


def test_a_bound_that_everything_keeps_ends_near_the_ceiling() -> None:
    _, serve = simulated(MS)
    found = search_rate(serve, ceiling=1000, bound_ns=10**15, percent=99)  # type: ignore[arg-type]
    assert found.refused is None
    assert found.rate is not None and found.rate > 950
