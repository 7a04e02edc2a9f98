from typing import Any

import pytest
from bench_engines import Engine, FakeClock, timed

from edgeai.bench.loop import Block, Loop, WarmUp, overhead_ns
from edgeai.bench.workload import NS, Workload
from edgeai.errors import InputError
from edgeai.samples import Samples

MS = 1_000_000


def loop_over(engine: Engine, samples: Samples, clock: FakeClock, **fields: Any) -> Loop:
    workload = Workload(**{"warmup_window": 3, "warmup_min_seconds": 0.0, **fields})
    return Loop(engine, workload.feeds(samples), workload=workload, clock=clock, cpu_clock=clock)


def test_samples_are_what_the_clock_says_and_the_first_run_stands_apart(clock: FakeClock, samples: Samples) -> None:
    loop = loop_over(timed(clock, [900, 30, 10, 20]), samples, clock)
    assert loop.first() == 900
    assert loop.block(3, budget_ns=NS) == Block((30, 10, 20), cpu_ns=60)


def test_inputs_go_round_across_blocks_and_discarded_runs(clock: FakeClock, samples: Samples) -> None:
    engine = timed(clock, [1])
    loop = loop_over(engine, samples, clock)
    loop.first()
    loop.block(2, budget_ns=NS)
    assert len(loop.block(2, budget_ns=NS, discard=1).samples_ns) == 2
    assert engine.seen == [0, 2, 4, 0, 2, 4]  # the first element of rows 0, 1, 2, 0, 1, 2


def test_discarded_runs_are_neither_timed_nor_charged(clock: FakeClock, samples: Samples) -> None:
    loop = loop_over(timed(clock, [500, 500, 7]), samples, clock)
    assert loop.block(1, budget_ns=NS, discard=2) == Block((7,), cpu_ns=7)


def test_a_block_ends_when_its_budget_is_used_up_but_not_before_one_run(clock: FakeClock, samples: Samples) -> None:
    loop = loop_over(timed(clock, [10]), samples, clock)
    assert loop.block(100, budget_ns=35).samples_ns == (10,) * 4
    assert loop.block(100, budget_ns=0).samples_ns == (10,)


def test_the_harness_looks_at_the_clock_twice_a_run(clock: FakeClock, samples: Samples) -> None:
    loop = loop_over(Engine(), samples, clock)
    loop.block(10, budget_ns=NS)
    few = clock.calls
    loop.block(1010, budget_ns=NS)
    assert clock.calls - few - few == 2 * 1000


def test_warm_up_ends_when_three_windows_agree(clock: FakeClock, samples: Samples) -> None:
    # windows of three, medians 90, 50, 21, 20, 20: the last three are the first within 5 %
    costs = [99, 90, 80, 50, 50, 70, 21, 21, 21, 20, 20, 20, 20, 20, 999]
    loop = loop_over(timed(clock, costs), samples, clock)
    assert loop.warm_up() == WarmUp(runs=15, duration_ns=sum(costs), median_ns=20, stable=True)


def test_agreeing_windows_do_not_end_it_before_its_time(clock: FakeClock, samples: Samples) -> None:
    loop = loop_over(timed(clock, [10 * MS]), samples, clock, warmup_min_seconds=0.2)
    assert loop.warm_up() == WarmUp(runs=21, duration_ns=210 * MS, median_ns=10 * MS, stable=True)


def test_what_never_settles_is_stopped_and_called_unsteady(clock: FakeClock, samples: Samples) -> None:
    growing = [2**i for i in range(64)]
    warm_up = loop_over(timed(clock, growing), samples, clock, warmup_max_seconds=0.001).warm_up()
    assert not warm_up.stable
    assert warm_up.runs == 20, "2**20 ns is the first sum past 1 ms; a window is cut short there"


def test_a_slow_engine_warms_up_with_one_run(clock: FakeClock, samples: Samples) -> None:
    warm_up = loop_over(timed(clock, [30 * NS]), samples, clock).warm_up()
    assert warm_up == WarmUp(runs=1, duration_ns=30 * NS, median_ns=30 * NS, stable=False)


def test_a_query_of_several_inferences_is_timed_as_one(clock: FakeClock, samples: Samples) -> None:
    engine = timed(clock, [1, 2, 3, 4, 5, 6])
    loop = loop_over(engine, samples, clock, scenario="multi", query_size=2)
    assert loop.block(3, budget_ns=NS) == Block((3, 7, 11), cpu_ns=21)
    assert engine.seen == [0, 2, 4, 0, 2, 4]


def test_a_server_waits_for_arrivals_and_measures_from_them(clock: FakeClock, samples: Samples) -> None:
    workload = Workload(scenario="server", rate=1000.0)

    def sleep(seconds: float) -> None:
        clock.now_ns += max(1, round(seconds * NS))

    def block(cost_ns: int) -> Block:
        clock.now_ns = 0
        engine = timed(clock, [cost_ns])
        loop = Loop(engine, workload.feeds(samples), workload=workload, clock=clock, cpu_clock=clock, sleep=sleep)
        return loop.block(50, budget_ns=NS)

    quick, slow = block(10), block(5 * MS)
    assert all(10 <= sample <= 20 for sample in quick.samples_ns), "nobody waited, but for the rounding of a sleep"
    assert quick.wall_ns is not None and quick.wall_ns > 10 * MS, "fifty arrivals at a thousand a second"
    assert slow.samples_ns[-1] > 100 * MS, "at five times what it can serve the queue grows"
    assert slow.duration_ns == slow.wall_ns == pytest.approx(50 * 5 * MS, rel=0.02)


def test_arrivals_end_with_the_budget(clock: FakeClock, samples: Samples) -> None:
    workload = Workload(scenario="server", rate=1000.0)
    loop = Loop(
        timed(clock, [10]), workload.feeds(samples), workload=workload, clock=clock, cpu_clock=clock,
        sleep=lambda seconds: setattr(clock, "now_ns", clock.now_ns + max(1, round(seconds * NS))),
    )  # fmt: skip
    assert 1 <= len(loop.block(10_000, budget_ns=20 * MS).samples_ns) < 60


def test_a_meter_is_read_around_the_timed_runs_only(clock: FakeClock, samples: Samples) -> None:
    class Meter:
        source = "a test"

        def read(self) -> int:
            return clock.now_ns * 3

    loop = Loop(timed(clock, [100]), Workload().feeds(samples), workload=Workload(), clock=clock, cpu_clock=clock,
                meter=Meter())  # fmt: skip
    assert loop.block(4, budget_ns=NS, discard=2) == Block((100,) * 4, cpu_ns=400, energy_uj=1200)


def test_the_loop_s_own_cost_is_small() -> None:
    assert 0 < overhead_ns(runs=2000) < 20_000, "a bound that holds on a busy machine too"


def test_inputs_that_do_not_fit_are_the_engine_s_to_refuse(clock: FakeClock) -> None:
    import numpy as np

    wrong = Samples.from_rows({"x": np.zeros((2, 5), np.float32)})
    with pytest.raises(InputError, match="axis 1 must be 2, got 5"):
        loop_over(Engine(), wrong, clock).first()
