import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeai.bench.statistics import (
    FASTER,
    NOT_RESOLVED,
    SLOWER,
    STATISTICS,
    Estimate,
    Ratio,
    minimum_samples,
    percentile,
    ratio_of_means,
    ratio_of_medians,
    ratio_of_percentiles,
    statistics,
    verdict,
)
from edgeai.errors import BenchmarkError


@pytest.mark.parametrize(("percent", "count"), [(50, 11), (90, 64), (95, 130), (99, 662)])
def test_minimum_samples_are_those_of_mlperf(percent: int, count: int) -> None:
    assert minimum_samples(percent) == count


@pytest.mark.parametrize("percent", [50, 90, 95, 99])
def test_a_percentile_is_refused_below_its_minimum_and_told_from_it_on(percent: int) -> None:
    need = minimum_samples(percent)
    refused = percentile(np.arange(need - 1), percent)
    assert refused == Estimate(None, reason=f"p{percent} needs {need} samples, got {need - 1}")
    told = percentile(np.arange(need), percent)
    assert told.value is not None
    assert told.reason == ""


def test_percentiles_and_intervals_of_known_samples() -> None:
    # ranks 40 and 61 of 100: the textbook's 95 % interval of a median
    assert percentile(np.arange(1, 101)[::-1], 50) == Estimate(50.0, 40.0, 61.0)
    assert percentile(np.arange(1, 101), 90).value == 90.0
    assert percentile(np.arange(1, 66), 90).value == 59.0, "the nearest rank at or above 58.5"


@settings(deadline=None)
@given(st.lists(st.integers(1, 10**10), min_size=1, max_size=50), st.integers(662, 900))
def test_percentiles_rise_and_lie_in_their_intervals(seen: list[int], count: int) -> None:
    samples = np.resize(seen, count)
    found = statistics(samples)
    values = [found["min"].value, *(found[f"p{percent}"].value for percent in (50, 90, 95, 99)), samples.max()]
    assert values == sorted(values)  # type: ignore[type-var]
    for percent in (50, 90, 95, 99):
        row = found[f"p{percent}"]
        assert row.low <= row.value <= row.high  # type: ignore[operator]
        assert row.value in seen, "a percentile is a latency that was seen"


def test_the_interval_holds_the_true_percentile_as_often_as_it_says() -> None:
    generator = np.random.default_rng(7)
    true = math.log(10)  # p90 of the unit exponential
    hits = 0
    for _ in range(400):
        found = percentile(generator.exponential(1.0, 100), 90)
        hits += found.low <= true <= found.high  # type: ignore[operator]
    assert hits / 400 >= 0.93


def test_the_other_figures() -> None:
    found = statistics([2_000_000] * 5 + [7_000_000] * 5)
    assert found["mean"].value == 4_500_000
    assert found["min"].value == 2_000_000
    assert found["throughput"].value == pytest.approx(1000 / 4.5)
    assert found["p50"].reason == "p50 needs 11 samples, got 10"
    assert {STATISTICS[name].unit for name in ("p50", "mean", "min")} == {"ns"}


def test_no_samples_give_reasons_not_numbers() -> None:
    assert {row.value for row in statistics([]).values()} == {None}
    assert statistics([])["mean"].reason == "no samples"


def blocks(median: float, *, seed: int, count: int = 10, drift: float = 0.0) -> list[list[int]]:
    """`count` blocks of 100 samples with 3 % of noise; `drift` slows each block by so much more."""
    generator = np.random.default_rng(seed)
    return [(median * (1 + drift * i) * generator.normal(1, 0.03, 100)).astype(int).tolist() for i in range(count)]


def test_a_planted_factor_of_two_is_found() -> None:
    ratio = ratio_of_medians(blocks(2e6, seed=1), blocks(1e6, seed=2))
    assert ratio.low <= ratio.value <= ratio.high
    assert ratio.value == pytest.approx(2, rel=0.01)
    assert verdict(ratio, 0.02) == SLOWER
    assert verdict(ratio_of_medians(blocks(1e6, seed=2), blocks(2e6, seed=1)), 0.02) == FASTER


def test_equal_engines_are_not_told_apart() -> None:
    for seed in range(10):
        ratio = ratio_of_medians(blocks(1e6, seed=seed), blocks(1e6, seed=100 + seed), seed=seed)
        assert ratio.low < 1 < ratio.high or abs(ratio.value - 1) < 0.01
        assert verdict(ratio, 0.02) == NOT_RESOLVED


def test_drift_that_meets_both_alike_does_not_hide_a_difference() -> None:
    together = ratio_of_medians(blocks(1.1e6, seed=1, drift=0.1), blocks(1e6, seed=2, drift=0.1))
    assert verdict(together, 0.02) == SLOWER


def flipping(median: float, *, seed: int, slow: Sequence[bool]) -> list[list[int]]:
    """A block for each of `slow`: half as slow again where it is true."""
    even = blocks(median, seed=seed, count=len(slow))
    return [[int(1.5 * ns) for ns in block] if is_slow else block for block, is_slow in zip(even, slow, strict=True)]


@pytest.mark.parametrize(("factor", "word"), [(1.1, SLOWER), (1.0, NOT_RESOLVED), (0.9, FASTER)])
def test_a_machine_that_changes_its_speed_between_rounds_hides_nothing_and_adds_nothing(
    factor: float, word: str
) -> None:
    """The share of slow rounds is near one half, where the median of all samples jumps from one speed to the other."""
    for seed in range(20):
        slow = np.random.default_rng(seed).random(20) < 0.5
        ratio = ratio_of_medians(flipping(factor * 1e6, seed=seed, slow=slow), flipping(1e6, seed=99 + seed, slow=slow))
        assert ratio.value == pytest.approx(factor, rel=0.01)
        assert verdict(ratio, 0.02) == word


def test_a_to_b_is_the_inverse_of_b_to_a() -> None:
    for count in (7, 8):
        a, b = blocks(1.3e6, seed=1, count=count), blocks(1e6, seed=2, count=count)
        assert ratio_of_medians(a, b).value == pytest.approx(1 / ratio_of_medians(b, a).value)


def test_the_interval_is_that_of_samples_drawn_one_by_one() -> None:
    a, b = blocks(1.1e6, seed=1, count=6), blocks(1e6, seed=2, count=6)
    found, generator, ratios = ratio_of_medians(a, b), np.random.default_rng(0), []
    for _ in range(2000):
        rounds = generator.integers(0, 6, 6)
        halves = [[np.median(generator.choice(side[i], len(side[i]))) for i in rounds] for side in (a, b)]
        ratios.append(np.median(np.divide(*halves)))
    low, high = np.quantile(ratios, (0.025, 0.975))
    assert (found.low, found.high) == (pytest.approx(low, abs=2e-3), pytest.approx(high, abs=2e-3))


def test_drift_of_one_alone_widens_the_interval() -> None:
    steady = ratio_of_medians(blocks(1e6, seed=1), blocks(1e6, seed=2))
    drifting = ratio_of_medians(blocks(1e6, seed=1, drift=0.05), blocks(1e6, seed=2))
    assert drifting.high - drifting.low > 5 * (steady.high - steady.low)


def test_processes_that_differ_widen_the_interval() -> None:
    """Each process has a speed of its own, within 5 %: without their numbers the interval knows nothing of it."""
    generator = np.random.default_rng(3)
    speeds = generator.normal(1, 0.05, 10)
    a = [block for i, s in enumerate(speeds[:5]) for block in blocks(1e6 * s, seed=i, count=4)]
    b = [block for i, s in enumerate(speeds[5:]) for block in blocks(1e6 * s, seed=50 + i, count=4)]
    processes = [i for i in range(5) for _ in range(4)]
    told, untold = ratio_of_medians(a, b, processes=processes), ratio_of_medians(a, b)
    assert told.value == untold.value
    assert told.high - told.low > 1.3 * (untold.high - untold.low)
    assert ratio_of_medians(a, b, processes=[7] * 20) == untold, "one process is what no numbers mean"
    uneven = ratio_of_medians(a, b, processes=[0, *processes[:-1]])
    assert uneven.value == untold.value and uneven.high - uneven.low > untold.high - untold.low


def test_blocks_of_two_runs_need_not_be_pairs() -> None:
    a, b = blocks(2e6, seed=1, count=7), blocks(1e6, seed=2, count=12)
    for ratio in (ratio_of_percentiles(a, b, 90), ratio_of_means(a, b)):
        assert ratio.low < ratio.value < ratio.high
        assert ratio.value == pytest.approx(2, rel=0.02)
        assert ratio.blocks == 7
    with pytest.raises(BenchmarkError, match="got 0 and 12 blocks"):
        ratio_of_means([], b)


@settings(deadline=None)
@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=60), st.integers(1, 10**12))
def test_throughput_counts_the_wall_clock_where_it_is_given(samples: list[int], duration_ns: int) -> None:
    assert statistics(samples)["throughput"].value == pytest.approx(len(samples) * 1e9 / sum(samples))
    overlapping = statistics(samples, duration_ns=duration_ns)
    assert overlapping["throughput"].value == pytest.approx(len(samples) * 1e9 / duration_ns)
    assert overlapping["mean"] == statistics(samples)["mean"]


def test_the_seed_decides() -> None:
    a, b = blocks(1e6, seed=1), blocks(1e6, seed=2)
    assert ratio_of_medians(a, b, seed=3) == ratio_of_medians(a, b, seed=3)
    assert ratio_of_medians(a, b, seed=3) != ratio_of_medians(a, b, seed=4)


def test_blocks_may_differ_in_size_and_a_resample_stays_inside_its_block() -> None:
    # all samples of a block are equal, so the median of any resample is one of the block values
    ratio = ratio_of_medians([[40] * 3, [10] * 50], [[20], [20]])
    assert (ratio.value, ratio.blocks) == (pytest.approx(1.0), 2)
    assert (ratio.low, ratio.high) == (pytest.approx(0.5), pytest.approx(2.0))


def test_a_clock_that_stands_still_gives_one_not_a_crash() -> None:
    assert ratio_of_medians([[0, 0]], [[0]]).value == 1.0


@pytest.mark.parametrize(("a", "b"), [([], []), ([[1]], [[1], [2]]), ([[1], []], [[1], [2]])])
def test_blocks_that_do_not_pair_are_refused(a: list[list[int]], b: list[list[int]]) -> None:
    with pytest.raises(BenchmarkError, match="needs pairs of blocks with samples"):
        ratio_of_medians(a, b)


@pytest.mark.parametrize(
    ("ratio", "word"),
    [
        (Ratio(0.5, 0.4, 0.6, 10), FASTER),
        (Ratio(0.5, 0.4, 0.6, 4), NOT_RESOLVED),  # four blocks cannot say
        (Ratio(0.97, 0.96, 0.985, 10), NOT_RESOLVED),  # beyond 1, not beyond the noise floor
        (Ratio(1.5, 0.9, 2.0, 10), NOT_RESOLVED),
        (Ratio(1.05, 1.015, 1.1, 10), NOT_RESOLVED),
        (Ratio(1.5, 1.021, 2.0, 10), SLOWER),
        (None, NOT_RESOLVED),
    ],
)
def test_verdicts(ratio: Ratio | None, word: str) -> None:
    assert verdict(ratio, 0.02) == word
