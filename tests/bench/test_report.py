import dataclasses
import json
from pathlib import Path

import pytest
from bench_reports import report_of, result
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeai.bench.energy import Energy
from edgeai.bench.loop import Block
from edgeai.bench.noise import NOISY, QUIET, Disturbance, Noise
from edgeai.bench.report import SCHEMA, Report, SubjectResult, changes_of_speed, doubts, shortfall
from edgeai.bench.statistics import FASTER, NOT_RESOLVED, Ratio, statistics
from edgeai.bench.subject import Phases, Ran
from edgeai.bench.table import rows
from edgeai.bench.workload import Workload
from edgeai.errors import DataError, ExistsError

ANALYSED = report_of(result("a", [10] * 10))
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def test_the_table() -> None:
    """A snapshot: 10 blocks of 10 runs; eager 2 ms, int8 1 ms."""
    table = rows(report_of(result("eager", [2_000_000] * 10), result("int8", [1_000_000] * 10)))
    assert table == [
        [
            *("subject", "runs", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "mean ms", "min ms", "throughput runs/s"),
            *("first ms", "CPU ms/run", "peak MiB", "size MiB", "ratio", "verdict"),
        ],
        ["eager", "100", "2", "2", "-", "-", "2", "2", "500", "9", "4", "5", "3", "-", "-"],
        ["int8", "100", "1", "1", "-", "-", "1", "1", "1000", "9", "2", "5", "3", "0.500 [0.500, 0.500]", FASTER],
    ]


def test_a_subject_without_samples_has_a_row_too() -> None:
    report = report_of(result("a", [10] * 10), result("b", [], blocks=0))
    assert report["b"].verdict == NOT_RESOLVED
    assert report["b"].ratio is None
    assert report["b"].cpu_seconds_per_inference is None
    assert rows(report)[2][:3] == ["b", "0", "-"]
    assert Report.from_json(report.to_json()) == report


def test_only_rounds_that_both_have_are_compared() -> None:
    report = report_of(result("a", [10] * 10, blocks=7), result("b", [20] * 10, blocks=6))
    assert report["b"].ratio is not None
    assert report["b"].ratio.blocks == 6


def test_rounds_are_paired_within_their_process() -> None:
    """Process 1 is twice as slow for both; one subject needs a round more in process 0, the other in process 1."""

    def uneven(name: str, processes: list[int]) -> SubjectResult:
        blocks = tuple(Block((10**6 * (1 + process),) * 20, 0, process=process) for process in processes)
        return dataclasses.replace(result(name, []), blocks=blocks)

    report = report_of(uneven("a", [0, 0, 0, 0, 1, 1, 1]), uneven("b", [0, 0, 0, 1, 1, 1, 1]))
    assert report["b"].ratio == Ratio(1.0, 1.0, 1.0, 6)


def test_a_name_that_is_not_there_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="nobody"):
        report_of(result("a", [10]))["nobody"]


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 10**12), max_size=20), max_size=6),
    st.text(min_size=1),
    st.tuples(FINITE, FINITE, FINITE),
    st.dictionaries(st.text(), st.none() | st.integers() | st.text() | FINITE),
)
def test_json_round_trip_is_exact(
    blocks: list[list[int]], name: str, figures: tuple[float, float, float], arguments: dict[str, object]
) -> None:
    first = dataclasses.replace(
        ANALYSED.subjects[0],
        name=name,
        blocks=tuple(Block(tuple(block), sum(block)) for block in blocks),
        statistics=statistics([sample for block in blocks for sample in block]),
        arguments=arguments,
    )
    other = dataclasses.replace(
        first,
        name=name + "'",
        size_bytes=None,
        peak_rss_bytes=None,
        phases=Phases(None, None, 1),
        ratio=Ratio(*figures, len(blocks)),
    )
    report = dataclasses.replace(ANALYSED, subjects=(first, other), noise_before=Noise(*figures[:2], 1))
    assert Report.from_json(report.to_json()) == report


def test_a_file_is_written_whole_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    report = report_of(result("a", [10] * 10))
    report.save(path)
    assert Report.load(path) == report
    with pytest.raises(ExistsError, match="report.json already exists"):
        report.save(path)
    changed = dataclasses.replace(report, interrupted=True)
    changed.save(path, overwrite=True)
    assert Report.load(path).interrupted
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


def damaged(change: dict[str, object]) -> str:
    data = json.loads(report_of(result("a", [10] * 10)).to_json())
    return json.dumps(data | change)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"schema": 2}',
        damaged({"subjects": [1]}),
        damaged({"workload": {"scenario": "sometimes"}}),
        damaged({"machine": None}),
        damaged({"surprise": 1}),
        damaged({"noise_before": {"load": 1}}),
    ],
)
def test_what_is_not_a_report_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(DataError, match="bad.json: not a benchmark report"):
        Report.load(path)


def test_another_schema_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"report: schema 99, this edgeai reads {SCHEMA} \(measure again\)"):
        Report.from_json(damaged({"schema": 99}))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing.json: cannot be read"):
        Report.load(tmp_path / "missing.json")
    (tmp_path / "latin.json").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="latin.json: cannot be read"):
        Report.load(tmp_path / "latin.json")


def test_runs_below_mlperf_s_minimum_say_so() -> None:
    enough, plan = result("a", [10**9] * 60), Workload()  # 600 s in 600 runs
    assert shortfall([enough], plan) == ""
    short = shortfall([enough, result("b", [10**9] * 59)], plan)
    assert short == "590 s and 590 runs are measured; MLPerf asks for 600 s and 64 runs"
    assert shortfall([result("c", [10**11])], plan) != "", "ten runs of 100 s are long, but too few for p90"
    assert shortfall([enough], Workload(scenario="offline", batch=8)).endswith("600 s and 3072 runs")
    assert shortfall([enough], Workload(scenario="multi")).endswith("600 s and 662 runs")


def test_doubts_name_their_reason() -> None:
    steady, shaky = result("steady", [1]), result("shaky", [1], stable=False)
    quiet = Disturbance(QUIET, ())
    assert doubts([steady], Workload(), inputs=3, disturbance=quiet) == ()
    busy = Disturbance(NOISY, ("the machine was busy before the start (load 1.7 on 2 cores)",))
    found = doubts([steady, shaky], Workload(), inputs=1, disturbance=busy)
    assert [sentence.split(",")[0] for sentence in found] == [
        "shaky: still not steady when the warm-up's time was over; give it more (warmup_max_seconds)",
        "every run had the same input",
        "the machine was noisy: the machine was busy before the start (load 1.7 on 2 cores)",
    ]
    moved = dataclasses.replace(steady, ran=Ran(("cpu",), {"cpu": 3}, ("cuda does not run here",)))
    assert doubts([moved], Workload(), inputs=3, disturbance=quiet) == ("steady: cuda does not run here",)


def test_a_change_of_speed_is_told() -> None:
    """Ten blocks; one that is out of line is not a speed, and what was planned with other gaps has many."""

    def at(*speeds_ns: int) -> SubjectResult:
        blocks = tuple(Block((speed,) * 9, 0) for speed in speeds_ns)
        return dataclasses.replace(result("m", []), blocks=blocks)

    flipped = at(*[45_000] * 7, *[28_000] * 3)
    assert changes_of_speed([at(*[45_000] * 9, 28_000)], Workload()) == []
    assert changes_of_speed([at(*range(100_000, 110_000, 1_000))], Workload()) == []
    assert changes_of_speed([at(45_000, 28_000)], Workload()) == [], "too few blocks to tell"
    (told,) = changes_of_speed([flipped], Workload())
    assert "m: its speed changed while it was measured, from 0.028 to 0.045 ms a run" in told
    assert changes_of_speed([flipped], Workload(scenario="server", rate=1.0)) == []
    assert told in doubts([flipped], Workload(), inputs=3, disturbance=Disturbance(QUIET, ()))


def test_overlapping_runs_are_counted_and_compared_by_the_wall_clock() -> None:
    def overlapping(name: str, wall_ns: int) -> SubjectResult:
        blocks = tuple(Block((10_000_000,) * 10, cpu_ns=0, wall_ns=wall_ns + i) for i in range(6))
        return dataclasses.replace(result(name, []), blocks=blocks, batch=4)

    workload = Workload(scenario="offline", batch=4, concurrency=2)
    report = report_of(overlapping("a", 50_000_000), overlapping("b", 25_000_000), workload=workload)
    assert report["a"].statistics["p50"].value == 10_000_000
    assert report["a"].statistics["throughput"].value == pytest.approx(200, rel=1e-3)
    assert report["a"].samples_per_second == pytest.approx(800, rel=1e-3)
    assert report["a"].early_stopping is None, "offline has no tail"
    assert report["b"].ratio is not None and report["b"].ratio.value == pytest.approx(0.5, rel=1e-3)
    assert report["b"].verdict == FASTER


def test_energy_is_that_of_the_blocks_or_has_its_reason() -> None:
    def metered(energy: Energy, counted: int | None) -> Energy:
        blocks = tuple(Block((10,) * 4, 0, energy_uj=counted) for _ in range(5))
        return report_of(dataclasses.replace(result("a", []), blocks=blocks, energy=energy))["a"].energy

    assert metered(Energy(None, "RAPL"), 8_000_000) == Energy(2.0, "RAPL")
    assert metered(Energy(None, "RAPL"), None) == Energy(None, "RAPL", "the counter stopped answering")
    assert metered(Energy(None, "", "no RAPL counters"), None) == Energy(None, "", "no RAPL counters")


def test_a_query_of_several_inferences_is_one_run() -> None:
    report = report_of(result("a", [8_000_000] * 70), workload=Workload(scenario="multi"))
    assert report["a"].samples_per_second == pytest.approx(1000)
    assert report["a"].cpu_seconds_per_inference == pytest.approx(0.002)
    assert report["a"].early_stopping is not None and report["a"].early_stopping.value == 8_000_000
