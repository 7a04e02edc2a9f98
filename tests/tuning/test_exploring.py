"""The search on a laboratory whose truth is known: it never ends worse than the plain float session."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeai.runtime.settings import SessionSettings
from edgeai.tuning.candidates import Plan, Point, plans, variants
from edgeai.tuning.choice import NOISE_FLOOR
from edgeai.tuning.exploring import TIME_UP, Explored, Judged, explore
from edgeai.tuning.objective import Figures
from edgeai.tuning.space import Space

BASE = Point()
FILES = [Plan("mha"), Plan("portable", "int8-dynamic"), Plan("portable", "int8-static"), Plan("attention3d")]


class FakeLab:
    """Costs are exact: of a file by its name, times a factor for each setting. Every effect takes its seconds."""

    def __init__(
        self,
        cost: Mapping[str, float],
        *,
        size: Mapping[str, int] | None = None,
        refused: Sequence[str] = (),
        inaccurate: Sequence[str] = (),
        crashing: Sequence[str] = (),
        factors: Mapping[str, float] | None = None,
        fusions: Sequence[str] = (),
        seconds: float = math.inf,
        step: float = 1.0,
    ) -> None:
        self.cost, self.size, self.refused = dict(cost), dict(size or {}), set(refused)
        self.inaccurate, self.crashing = set(inaccurate), set(crashing)
        self.factors, self.fusions = dict(factors or {}), list(fusions)
        self.seconds, self.step = seconds, step
        self.made: list[str] = []
        self.measured: list[tuple[tuple[str, ...], float]] = []
        self.judged: list[str] = []
        self.notes: list[str] = []

    def make(self, plan: Plan) -> str | None:
        self.seconds -= self.step
        self.made.append(plan.name)
        return "not possible" if plan.name in self.refused else ""

    def true_cost(self, point: Point) -> float:
        cost = self.cost.get(point.plan.name, 1.0)
        return cost * math.prod(self.factors.get(departure, 1.0) for departure in point.departures)

    def measure(self, some: Sequence[Point], effort: float) -> dict[str, Figures]:
        self.seconds -= self.step * effort * len(some)
        self.measured.append((tuple(point.name for point in some), effort))
        found = {BASE.name: Figures(p50_ns=1000, size_bytes=1000, effort=effort)}
        for point in some:
            cost = self.true_cost(point)
            found[point.name] = (
                Figures(failed="its process died")
                if point.plan.name in self.crashing
                else Figures(
                    p50_ns=int(1000 * cost), cost=(cost, cost * 0.999, cost * 1.001), latency=(cost, cost, cost),
                    size_bytes=self.size.get(point.plan.name, 1000), effort=effort,
                )
            )  # fmt: skip
        return found

    def judge(self, point: Point) -> Judged:
        self.seconds -= self.step
        assert point.name not in self.judged, "judged twice"
        self.judged.append(point.name)
        return Judged(0.5, "accuracy fell") if point.plan.name in self.inaccurate else Judged(0.001)

    def fired(self, point: Point) -> Sequence[str]:
        return self.fusions

    def group(self, some: Sequence[Point]) -> int:
        return 3

    def left(self) -> float:
        return max(0.0, self.seconds)

    def note(self, text: str) -> None:
        self.notes.append(text)


def found(lab: FakeLab, wanted: Sequence[Plan] = FILES, *, cores: int = 2, **space: object) -> Explored:
    return explore(wanted, lab, Space(**space), cores=cores)  # type: ignore[arg-type]


def reason(explored: Explored, name: str) -> str:
    return next(trial.reason for trial in explored.trials if trial.name == name)


def test_the_fastest_file_whose_accuracy_holds_is_kept() -> None:
    lab = FakeLab({"fp32 mha": 0.9, "int8-dynamic portable": 0.5, "int8-static portable": 0.4}, inaccurate=[
        "int8-static portable", "int8-static-percentile portable", "int8-static portable in budget",
    ])  # fmt: skip
    explored = found(lab, settings=False)
    assert explored.chosen.name == "int8-dynamic portable"
    assert reason(explored, "int8-static portable") == "accuracy fell"
    assert reason(explored, "fp32") == "replaced by int8-dynamic portable"
    assert explored.trials[0].name == "fp32"
    assert "int8-dynamic portable" in explored.frontier and "fp32 mha" not in explored.frontier


def test_a_recipe_that_fails_is_rescued_the_cheapest_way_first() -> None:
    lab = FakeLab(
        {"int8-static portable": 0.4, "int8-static-percentile portable": 0.4, "int8-static portable in budget": 0.5},
        inaccurate=["int8-static portable", "int8-static-percentile portable"],
    )
    explored = found(lab, settings=False)
    assert explored.chosen.name == "int8-static portable in budget"
    order = [name for name in lab.made if name.startswith("int8-static")]
    assert order == ["int8-static portable", "int8-static-percentile portable", "int8-static portable in budget"]


def test_settings_that_help_alone_are_tried_together() -> None:
    off, alone = "SkipLayerNormFusion off", "1 thread"
    lab = FakeLab(
        {"fp32 attention3d": 0.7}, factors={off: 0.8, alone: 0.9, "no arena": 1.3}, fusions=["SkipLayerNormFusion"]
    )
    explored = found(lab)
    assert explored.chosen.name == f"fp32 attention3d, {off}, {alone}"
    assert explored.chosen.point.settings.disabled_optimizers == ("SkipLayerNormFusion",)
    assert explored.chosen.point.settings.threads == 1 and explored.chosen.point.settings.arena
    assert explored.chosen.name in lab.judged, "with its own settings it is judged, not only its file"


def test_a_setting_that_helps_only_beside_another_is_found() -> None:
    class Lab(FakeLab):
        def true_cost(self, point: Point) -> float:
            both = {"SkipLayerNormFusion off", "1 thread"} <= set(point.departures)
            return super().true_cost(point) * (0.5 if both else 1.0)

    lab = Lab(
        {"fp32 attention3d": 0.7}, factors={"SkipLayerNormFusion off": 0.8, "1 thread": 1.2},
        fusions=["SkipLayerNormFusion"],
    )  # fmt: skip
    assert found(lab).chosen.name == "fp32 attention3d, SkipLayerNormFusion off, 1 thread"


def test_more_settings_are_tried_only_while_there_is_time() -> None:
    cost = {"fp32 mha": 0.5, "int8-dynamic portable": 0.6, "int8-static portable": 0.7}
    steps = {}
    for seconds in (22.0, 60.0, math.inf):
        lab = FakeLab(cost, factors={"SkipLayerNormFusion off": 0.9}, fusions=["SkipLayerNormFusion"], seconds=seconds)
        assert explore(FILES, lab, Space(), cores=2, reserve=8.0).chosen.name == "fp32 mha, SkipLayerNormFusion off"
        steps[seconds] = [note for note in lab.notes if "settings of" in note]
        assert lab.seconds > 0
    assert "fp32 mha, int8-dynamic portable:" in steps[22.0][0] + ":" and len(steps[22.0]) == 1
    assert "int8-static portable, fp32" in steps[60.0][0] and steps[60.0] == steps[math.inf]
    assert "SkipLayerNormFusion off" in steps[60.0][1] and len(steps[60.0]) == 2


def test_where_the_machine_changes_its_speed_the_last_round_takes_longer() -> None:
    class Lab(FakeLab):
        def measure(self, some: Sequence[Point], effort: float) -> dict[str, Figures]:
            measured = super().measure(some, effort)
            slow = len(self.measured) % 2 * 300
            return measured | {BASE.name: dataclasses.replace(measured[BASE.name], p50_ns=1000 + slow)}

    efforts = []
    for seconds in (math.inf, 60.0, 25.0):
        lab = Lab({"fp32 mha": 0.5}, seconds=seconds)
        assert found(lab, settings=False).chosen.name == "fp32 mha"
        assert any("changed its speed: fp32 took 0.001 to 0.0013 ms" in note for note in lab.notes)
        efforts.append(lab.measured[-1][1])
        assert seconds == math.inf or lab.seconds >= 0
    assert efforts[0] == efforts[1] == 6.0 > efforts[2] > 1.0


def test_the_best_that_needs_fewer_threads_is_in_the_last_round() -> None:
    lab = FakeLab({"fp32 mha": 0.5, "int8-dynamic portable": 0.45}, factors={"1 thread": 1.1})
    explored = found(lab)
    assert explored.chosen.name == "int8-dynamic portable"
    assert "int8-dynamic portable, 1 thread" in lab.measured[-1][0] + lab.measured[-2][0]
    assert "is faster" in reason(explored, "int8-dynamic portable, 1 thread")


def test_fusions_are_looked_for_only_where_the_file_runs_on_the_cpu() -> None:
    class Lab(FakeLab):
        def true_cost(self, point: Point) -> float:
            return super().true_cost(point) * (0.5 if point.provider == "cuda" else 1.0)

        def fired(self, point: Point) -> Sequence[str]:
            assert point.provider == "cpu", "bfloat16 has no CPU kernels: ONNX Runtime would not open the file"
            return super().fired(point)

    explored = found(Lab({}), [Plan("portable", "bf16")], providers=("cpu", "cuda"))
    assert explored.chosen.point.provider == "cuda"


def test_settings_are_tried_on_the_best_file_of_each_recipe() -> None:
    cost = {"int8-static portable": 0.4, "int8-static attention3d": 0.41, "int8-dynamic portable": 0.42}

    class Lab(FakeLab):
        def fired(self, point: Point) -> Sequence[str]:
            return ["SkipLayerNormFusion"] if point.plan.recipe == "int8-dynamic" else []

    wanted = [Plan("portable", "int8-static"), Plan("attention3d", "int8-static"), Plan("portable", "int8-dynamic")]
    explored = found(Lab(cost, factors={"SkipLayerNormFusion off": 0.8}), wanted)
    assert explored.chosen.name == "int8-dynamic portable, SkipLayerNormFusion off"


def test_settings_alone_can_win_where_no_file_does() -> None:
    explored = found(FakeLab({}, factors={"no spinning": 0.8}))
    assert explored.chosen.name == "fp32, no spinning"


def test_what_dies_or_cannot_be_made_is_a_row_not_the_end() -> None:
    lab = FakeLab({"fp32 mha": 0.5}, crashing=["fp32 mha"], refused=["int8-static portable"])
    explored = found(lab, settings=False)
    assert explored.chosen.name == "fp32"
    assert "does not run: its process died" in reason(explored, "fp32 mha")
    assert reason(explored, "int8-static portable") == "not possible"


def test_an_interval_from_too_few_blocks_ships_nothing() -> None:
    lab = FakeLab({"fp32 mha": 0.5})
    real = lab.measure

    def seldom(some: Sequence[Point], effort: float) -> dict[str, Figures]:
        return {
            name: dataclasses.replace(one, is_resolved=name == BASE.name) for name, one in real(some, effort).items()
        }

    lab.measure = seldom  # type: ignore[method-assign]
    explored = found(lab, settings=False)
    assert explored.chosen.name == "fp32"
    assert reason(explored, "fp32 mha") == "not measured often enough to tell"


def test_a_duplicate_is_not_listed() -> None:
    lab = FakeLab({})
    lab.make = lambda plan: None if plan.form == "mha" else ""  # type: ignore[method-assign]
    explored = found(lab, settings=False)
    assert "fp32 mha" not in [trial.name for trial in explored.trials]


def test_without_time_the_float_session_is_kept_and_what_was_left_undone_is_said() -> None:
    lab = FakeLab({"fp32 mha": 0.5}, seconds=0.0)
    explored = found(lab)
    assert explored.chosen.name == "fp32"
    assert lab.measured == [((), 1.0)]
    assert all(TIME_UP in trial.reason for trial in explored.trials[1:])


def test_the_time_is_kept_but_for_the_last_measurement() -> None:
    files = plans()
    lab = FakeLab({plan.name: 0.9 - index / 100 for index, plan in enumerate(files)}, seconds=20.0)
    explored = explore(files, lab, Space(), cores=2, reserve=5.0)
    assert explored.chosen.name != "fp32"
    assert lab.seconds > -5.0, "no more than one judgement and the last measurement come after the time is up"
    assert any(TIME_UP in trial.reason for trial in explored.trials)


costs = st.floats(0.2, 2.0)
names = [plan.name for plan in FILES]


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries({name: costs for name in names}),
    st.sets(st.sampled_from(names)),
    st.sets(st.sampled_from(names)),
    st.one_of(st.just(math.inf), st.floats(0, 30)),
    st.fixed_dictionaries({"no spinning": costs, "1 thread": costs, "no arena": costs}),
)
def test_do_no_harm(
    cost: dict[str, float], inaccurate: set[str], crashing: set[str], seconds: float, factors: dict[str, float]
) -> None:
    lab = FakeLab(cost, inaccurate=sorted(inaccurate), crashing=sorted(crashing), seconds=seconds, factors=factors)
    explored = found(lab)
    winner = explored.chosen
    assert winner.point.plan.name not in inaccurate | crashing
    assert lab.true_cost(winner.point) <= 1.0
    listed = [trial.name for trial in explored.trials]
    assert len(set(listed)) == len(listed) and listed[0] == "fp32"
    assert all(trial.reason for trial in explored.trials)
    assert winner.reason.startswith("kept")
    assert set(explored.frontier) <= set(listed)
    assert lab.measured[-1][1] == 1.0, "the last measurement is a whole one"
    again = FakeLab(cost, inaccurate=sorted(inaccurate), crashing=sorted(crashing), seconds=seconds, factors=factors)
    assert found(again) == explored and again.measured == lab.measured


@settings(max_examples=40, deadline=None)
@given(st.fixed_dictionaries({plan.name: costs for plan in plans()}))
def test_with_exact_figures_the_best_file_is_found(cost: dict[str, float]) -> None:
    lab = FakeLab(cost)
    chosen = found(lab, plans(), settings=False).chosen
    best = min(cost.values())
    if best < 0.95:
        assert lab.true_cost(chosen.point) <= best * (1 + NOISE_FLOOR) * 1.001
    whole = sum(effort * len(some) for some, effort in lab.measured)
    assert whole < 0.5 * len(cost), "less than half of what measuring all of them whole would take"


@pytest.mark.parametrize(
    ("features", "holds", "chosen"),
    [(["avx512_bf16"], True, True), (["avx512_bf16"], False, False), (["avx2"], True, False)],
)
def test_bfloat16_is_tried_where_the_cpu_has_it_and_kept_where_its_accuracy_holds(
    features: list[str], holds: bool, chosen: bool
) -> None:
    class Lab(FakeLab):
        def judge(self, point: Point) -> Judged:
            judged = super().judge(point)
            return Judged(0.5, "accuracy fell") if point.settings.bfloat16 and not holds else judged

    plan = Plan("portable-separate-qkv", "int8-static", scope="products")
    lab = Lab({plan.name: 0.5}, factors={"bfloat16": 0.8})
    explored = explore([plan], lab, Space(providers=("cpu", "openvino")), cores=1, features=features)
    assert explored.chosen.point == Point(plan, "openvino", SessionSettings(bfloat16=chosen))


def test_huge_pages_are_tried_on_large_files_where_there_are_any() -> None:
    def chosen(huge_pages: bool, size: int) -> str:
        lab = FakeLab({"fp32 mha": 0.9}, size={"fp32 mha": size}, factors={"huge pages": 0.9, "no arena": 0.95})
        return explore(FILES, lab, Space(), cores=1, huge_pages=huge_pages).chosen.name

    assert chosen(True, 9 << 20) == "fp32 mha, no arena, huge pages"
    assert chosen(False, 9 << 20) == chosen(True, 7 << 20) == "fp32 mha, no arena"
    point = Point(Plan("mha"), settings=SessionSettings(huge_pages=True))
    assert point.departures == ("huge pages",) and not point.is_lossy
    assert point.settings not in [p.settings for p in variants(point, [], 1, huge_pages=True)]
    assert variants(dataclasses.replace(point, provider="cuda"), [], 1, huge_pages=True) == []
