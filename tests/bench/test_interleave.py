from collections.abc import Callable
from typing import Any

import pytest
from bench_engines import FakeClock, timed

from edgeai.bench.interleave import Recording, interleave
from edgeai.bench.loop import Block, Loop, WarmUp
from edgeai.bench.statistics import FASTER, NOT_RESOLVED, SLOWER, ratio_of_medians, verdict
from edgeai.bench.workload import NS, Workload
from edgeai.samples import Samples

MS = 1_000_000
SHORT = Workload(
    min_iterations=40, max_iterations=400, min_seconds=0, rounds=6, warmup_min_seconds=0, settle_seconds=0.5
)


class Scripted:
    """A lane whose runs take `run_ns` and which notes what was asked of it."""

    def __init__(self, run_ns: int, on_block: Callable[[int], None] = lambda index: None) -> None:
        self.run_ns = run_ns
        self.asked: list[tuple[int, int, int]] = []
        self._on_block = on_block

    def warm_up(self) -> WarmUp:
        return WarmUp(3, 3 * self.run_ns, self.run_ns, True)

    def block(self, runs: int, *, budget_ns: int, discard: int = 0) -> Block:
        self._on_block(len(self.asked))
        self.asked.append((runs, budget_ns, discard))
        return Block((self.run_ns,) * runs, 0)


def recorded(lanes: dict[str, Any], workload: Workload = SHORT, **options: Any) -> Recording:
    return interleave(lanes, workload, sleep=lambda seconds: None, **options)


def test_every_round_has_every_lane_once_in_an_order_drawn_anew() -> None:
    order = recorded({name: Scripted(MS) for name in "abc"}).order
    rounds = [tuple(order[i : i + 3]) for i in range(0, len(order), 3)]
    assert len(rounds) == 6
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert len(set(rounds)) > 1


def test_the_seed_decides_the_order() -> None:
    def order(seed: int) -> list[str]:
        return recorded({name: Scripted(MS) for name in "abc"}, seed=seed).order

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_a_switch_costs_a_pause_and_discarded_runs_and_nothing_else_does() -> None:
    slept: list[float] = []
    lanes = {"a": Scripted(MS), "b": Scripted(MS)}
    recording = interleave(lanes, SHORT, sleep=slept.append)
    switches = sum(a != b for a, b in zip(["", *recording.order], recording.order, strict=False))
    assert slept == [0.5] * switches
    discards = [discard for lane in lanes.values() for _, _, discard in lane.asked]
    assert sorted(discards) == [0] * (12 - switches) + [2] * switches
    assert switches < 12, "the seed has a round that begins with the lane that ended the last one"


def test_a_single_lane_is_never_switched() -> None:
    slept: list[float] = []
    lane = Scripted(MS)
    interleave({"a": lane}, SHORT, sleep=slept.append)
    assert slept == []
    assert {discard for _, _, discard in lane.asked} == {0}


def test_each_lane_runs_as_often_as_its_own_speed_asks_for() -> None:
    workload = Workload(min_iterations=10, min_seconds=1.2, max_seconds=6, rounds=6, warmup_min_seconds=0)
    fast, slow = Scripted(MS), Scripted(100 * MS)
    recording = recorded({"fast": fast, "slow": slow}, workload)
    assert {runs for runs, _, _ in fast.asked} == {200}
    assert {runs for runs, _, _ in slow.asked} == {2}
    assert {budget for _, budget, _ in fast.asked} == {NS}
    assert [len(blocks) for blocks in recording.blocks.values()] == [6, 6]


def test_rounds_go_on_until_enough_was_run_and_the_block_size_is_corrected() -> None:
    workload = Workload(min_iterations=10, min_seconds=1, rounds=5, warmup_min_seconds=0)
    lane = Scripted(50 * MS)  # the warm-up says 50 ms; after that a run takes 1 ms
    warm_up = lane.warm_up()
    lane.warm_up = lambda: warm_up  # type: ignore[method-assign]
    lane.run_ns = MS
    recorded({"a": lane}, workload)
    assert [runs for runs, _, _ in lane.asked] == [4, 200, 200, 200, 200, 200]


def test_the_limits_end_a_lane_and_the_others_go_on() -> None:
    workload = Workload(
        min_iterations=60, max_iterations=60, min_seconds=1, max_seconds=3, rounds=6, warmup_min_seconds=0
    )
    many, long = Scripted(1), Scripted(2 * NS)
    recording = recorded({"many": many, "long": long}, workload)
    assert [runs for runs, _, _ in many.asked] == [10] * 6
    assert len(recording.blocks["long"]) == 1, "three seconds are over within one block"


def test_iterations_never_pass_their_maximum() -> None:
    lane = Scripted(1)
    recorded({"a": lane}, Workload(min_iterations=1, max_iterations=55, rounds=6, warmup_min_seconds=0))
    assert [runs for runs, _, _ in lane.asked] == [10, 10, 10, 10, 10, 5]


def test_ctrl_c_keeps_the_blocks_that_are_complete() -> None:
    def stop(index: int) -> None:
        if index == 2:
            raise KeyboardInterrupt

    recording = recorded({"a": Scripted(MS), "b": Scripted(MS, stop)})
    assert recording.interrupted
    assert len(recording.blocks["b"]) == 2
    assert len(recording.order) == sum(map(len, recording.blocks.values()))


def test_ctrl_c_before_the_first_block_goes_through() -> None:
    def stop(index: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recorded({"a": Scripted(MS, stop)})


@pytest.mark.parametrize(("factor", "word"), [(2.0, SLOWER), (0.5, FASTER), (1.0, NOT_RESOLVED)])
def test_planted_factors_on_a_machine_that_slows_down(
    clock: FakeClock, samples: Samples, factor: float, word: str
) -> None:
    """Both engines share one clock, whose every run is a little slower than the last."""

    def engine(scale: float) -> Any:
        jitter = [97, 104, 100, 99, 103, 96, 101]
        costs = (int(scale * jitter[i % 7] * (10_000 + clock.now_ns // 10**6)) for i in range(10**6))
        return timed(clock, costs)

    workload = Workload(
        min_iterations=100, max_iterations=1000, min_seconds=0, warmup_min_seconds=0, warmup_tolerance=0.2
    )
    feeds = workload.feeds(samples)
    lanes = {
        name: Loop(engine(scale), feeds, workload=workload, clock=clock)
        for name, scale in (("reference", 1.0), ("candidate", factor))
    }
    recording = recorded(lanes, workload)
    blocks = {name: [block.samples_ns for block in blocks] for name, blocks in recording.blocks.items()}
    ratio = ratio_of_medians(blocks["candidate"], blocks["reference"])
    assert verdict(ratio, workload.noise_floor) == word
    assert ratio.value == pytest.approx(factor, rel=0.02)
