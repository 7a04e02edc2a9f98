import dataclasses
from pathlib import Path

import numpy as np
import pytest
from bench_reports import MACHINE, report_of, result

from edgeai.bench.capacity import Capacity
from edgeai.bench.compare import PASSED, REGRESSED, Comparison, Rule, compare
from edgeai.bench.loop import Block
from edgeai.bench.noise import NOISY, Disturbance
from edgeai.bench.report import Report, SubjectResult
from edgeai.bench.statistics import FASTER, SLOWER
from edgeai.bench.workload import Workload
from edgeai.errors import UsageError


def noisy(
    name: str, median_ns: float, *, seed: int, blocks: int = 10, runs: int = 70, noise: float = 0.03
) -> SubjectResult:
    generator = np.random.default_rng(seed)
    drawn = (median_ns * generator.normal(1, noise, (blocks, runs))).astype(int).tolist()
    return dataclasses.replace(result(name, []), blocks=tuple(Block(tuple(block), 0) for block in drawn))


def gate(old_ns: float, new_ns: float, *rules: str, **options: float) -> Comparison:
    old, new = noisy("m", old_ns, seed=1, **options), noisy("m", new_ns, seed=2, **options)  # type: ignore[arg-type]
    return compare(report_of(old), report_of(new), rules=[Rule.parse(rule) for rule in rules])


@pytest.mark.parametrize("rule", ["p50+5%", "p99+5%", "mean+5%", "throughput-5%"])
def test_ten_percent_is_flagged_and_none_is_not(rule: str) -> None:
    slower = gate(1e6, 1.1e6, rule)
    assert slower.verdict == REGRESSED
    assert [broken.certain for broken in slower.broken] == [True]
    assert f"more than {rule} allows" in slower.broken[0].text
    assert gate(1e6, 1e6, rule).verdict == PASSED
    assert gate(1.1e6, 1e6, rule).verdict == PASSED
    assert gate(1e6, 1.1e6).verdict == PASSED, "without a rule nothing fails"


def test_words_and_ratios() -> None:
    by_figure = {change.figure: change for change in gate(1e6, 2e6).changes}
    assert list(by_figure) == ["p50", "p99", "throughput"]
    assert {change.word for change in by_figure.values()} == {SLOWER}
    assert all(change.ratio and change.ratio.value == pytest.approx(2, rel=0.03) for change in by_figure.values())
    assert by_figure["throughput"].new == pytest.approx(500, rel=0.03), "runs a second, half as many"
    assert {change.word for change in gate(2e6, 1e6).changes} == {FASTER}


def test_a_difference_that_is_not_settled_is_told_and_passes() -> None:
    found = gate(1e6, 1.1e6, "p50+5%", noise=0.4)
    assert found.verdict == PASSED
    assert "does not settle" in found.broken[0].text


def test_a_figure_that_few_samples_cannot_carry_is_not_judged() -> None:
    found = gate(1e6, 2e6, "p99+5%", blocks=5, runs=20)
    assert found.verdict == PASSED
    assert found.broken[0].text == "m: p99 cannot be judged: p99 needs 662 samples, got 100"


def test_rows_of_one_block_cannot_break_a_rule() -> None:
    assert gate(1e6, 2e6, "p50+5%", blocks=1, runs=100).verdict == PASSED


def test_other_machines_and_workloads_are_refused_unless_forced() -> None:
    old = report_of(noisy("m", 1e6, seed=1))
    other = dataclasses.replace(old, machine=dataclasses.replace(MACHINE, cpu="another CPU"))
    with pytest.raises(UsageError, match=r"different machines .*a CPU.* and .*another CPU.*--force compares them"):
        compare(old, other)
    assert "different machines" in compare(old, other, force=True).warnings[0]
    with pytest.raises(UsageError, match=r"different workloads \(batch 1 and 2\)"):
        compare(old, dataclasses.replace(old, workload=Workload(batch=2)))
    wider = dataclasses.replace(old.subjects[0], batch=64)  # from --axis, which the workload does not know
    with pytest.raises(UsageError, match=r"different workloads \(m: batch 1 and 64\)"):
        compare(old, dataclasses.replace(old, subjects=(wider,)))
    longer = dataclasses.replace(old, workload=Workload(min_seconds=9))
    assert compare(old, longer).warnings == (), "how long it was measured is no other workload"


def test_what_disturbed_either_report_is_told() -> None:
    old = report_of(noisy("m", 1e6, seed=1))
    new = dataclasses.replace(old, disturbance=Disturbance(NOISY, ("it was hot",)), interrupted=True)
    assert compare(old, new).warnings == ("new: the machine was noisy: it was hot", "new: interrupted")


def test_a_speed_that_changed_in_either_report_is_told() -> None:
    steady, moved = (dataclasses.replace(result("m", []), blocks=blocks_at(times)) for times in ((8, 8), (8, 9)))
    (told,) = compare(report_of(steady), report_of(moved)).warnings
    assert told.startswith("new: m: its speed changed while it was measured, from 8 to 9 ms a run")


def blocks_at(milliseconds: tuple[int, int]) -> tuple[Block, ...]:
    return tuple(Block((ms * 1_000_000,) * 5, 0) for ms in milliseconds for _ in range(5))


def test_latencies_at_two_rates_say_nothing_about_each_other() -> None:
    capacity = Capacity(10**9, 99, 100.0, None, ())
    old, new = (dataclasses.replace(noisy("m", ns, seed=1), capacity=capacity) for ns in (1e6, 2e6))
    found = compare(report_of(old), report_of(new), rules=[Rule.parse("p99+5%"), Rule.parse("throughput-5%")])
    assert [change.ratio is None for change in found.changes] == [True, True, False]
    assert [(broken.rule, broken.certain) for broken in found.broken] == [("p99+5%", False), ("throughput-5%", True)]
    assert "at its own highest rate" in found.broken[0].text


def test_subjects_are_matched_by_name_and_the_only_ones_anyway() -> None:
    a, b, c = (noisy(name, 1e6, seed=seed) for seed, name in enumerate("abc"))
    assert compare(report_of(a), report_of(c)).changes[0].subject == "c"
    found = compare(report_of(a, b), report_of(b, c))
    assert {change.subject for change in found.changes} == {"b"}
    with pytest.raises(UsageError, match="no subject is in both"):
        compare(report_of(a), report_of(b, c))


def test_subjects_in_one_report_only_are_told() -> None:
    a, b, c, d = (noisy(name, 1e6, seed=seed) for seed, name in enumerate("abcd"))
    found = compare(report_of(a, b, c), report_of(b, c, d))
    assert found.warnings == ("a is in one report only", "d is in one report only")


@pytest.mark.parametrize(
    "text", ["", "p99", "p99+5", "p98+5%", "p99-5%", "throughput+5%", "throughput-100%", "p99+x%", "p99+5%%"]
)
def test_what_is_not_a_rule_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a rule"):
        Rule.parse(text)


def test_a_rule_says_itself() -> None:
    assert [str(Rule.parse(text)) for text in ("p99+5%", "throughput-2.5%")] == ["p99+5%", "throughput-2.5%"]
    assert Rule.parse("throughput-50%").limit == 2.0


def test_reports_from_files(tmp_path: Path) -> None:
    report_of(noisy("m", 1e6, seed=1)).save(tmp_path / "a.json")
    again = Report.load(tmp_path / "a.json")
    assert compare(again, again, rules=[Rule.parse("p50+1%")]).verdict == PASSED
