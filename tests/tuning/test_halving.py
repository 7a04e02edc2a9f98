import math
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from edgeai.tuning.frontier import frontier
from edgeai.tuning.halving import Cost, halve

Costs = dict[str, float]


class Track:
    """Exact costs; a whole measurement of one name takes a second."""

    def __init__(self, costs: Costs, *, seconds: float = math.inf, dead: Sequence[str] = ()) -> None:
        self.costs, self.seconds, self.dead = costs, seconds, set(dead)
        self.calls: list[tuple[tuple[str, ...], float]] = []

    def measure(self, names: Sequence[str], effort: float) -> dict[str, Cost | None]:
        self.calls.append((tuple(names), effort))
        self.seconds -= effort * len(names)
        return {name: None if name in self.dead else (self.costs[name],) * 3 for name in names}

    def left(self) -> float:
        return max(0.0, self.seconds)


def test_the_better_third_is_measured_again_and_longer() -> None:
    track = Track({f"n{i}": 1 + i / 10 for i in range(12)})
    found = halve(list(track.costs), track.measure, efforts=(0.1, 0.5), keep=2, group=5)
    assert [len(names) for names, _ in track.calls] == [5, 5, 2, 4]
    assert [effort for _, effort in track.calls] == [0.1, 0.1, 0.1, 0.5]
    assert found.ranking == tuple(track.costs)
    assert [found.rounds[name] for name in found.ranking] == [2] * 4 + [1] * 8


def test_what_does_not_run_is_named_and_left() -> None:
    track = Track({"a": 1.0, "b": 0.5, "c": 0.7}, dead=["b"])
    found = halve(["a", "b", "c"], track.measure, efforts=(0.1, 0.5), keep=2)
    assert found.failed == ("b",) and found.ranking == ("c", "a")
    assert "b" not in found.costs


def test_a_single_survivor_has_nobody_to_be_compared_with() -> None:
    track = Track({"a": 1.0})
    assert halve(["a"], track.measure).ranking == ("a",)
    assert len(track.calls) == 1
    assert halve([], track.measure).ranking == ()


@given(
    st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.floats(0.1, 10), max_size=20),
    st.integers(1, 4),
    st.integers(1, 9),
    st.one_of(st.just(math.inf), st.floats(0, 6)),
    st.floats(0, 2),
)
def test_every_name_ends_in_one_place_and_the_time_is_kept(
    costs: Costs, keep: int, group: int, seconds: float, reserve: float
) -> None:
    track = Track(costs, seconds=seconds)
    found = halve(
        list(costs), track.measure, efforts=(0.1, 0.3), keep=keep, group=group, left=track.left, reserve=reserve
    )
    assert sorted((*found.ranking, *found.failed, *found.untried)) == sorted(costs)
    if found.ranking:
        best = min(found.ranking, key=costs.__getitem__)
        assert costs[found.ranking[0]] == costs[best]
    if seconds == math.inf:
        assert not found.untried
        assert sum(effort * len(names) for names, effort in track.calls) <= (0.1 + 0.3) * len(costs) + 1e-9
    else:  # only the first group is measured without knowing what it will take
        assert track.seconds >= min(reserve, seconds) - 0.1 * group - 1e-9


@given(st.dictionaries(st.integers().map(str), st.tuples(*[st.integers(0, 4)] * 3), max_size=12))
def test_a_frontier_holds_what_nothing_dominates(points: dict[str, tuple[int, int, int]]) -> None:
    kept = frontier(points)
    assert bool(kept) == bool(points)
    for name, place in points.items():
        dominated = any(
            all(x <= y for x, y in zip(other, place, strict=True)) and other != place for other in points.values()
        )
        assert not (dominated and name in kept)
        if not dominated:
            assert place in [points[one] for one in kept]
    assert len({points[name] for name in kept}) == len(kept)


def test_the_first_group_is_measured_however_little_time_there_is() -> None:
    track = Track({"a": 1.0, "b": 0.5, "c": 0.7}, seconds=1.0)
    found = halve(list("abc"), track.measure, efforts=(0.1, 0.5), keep=2, group=2, left=track.left, reserve=5.0)
    assert found.ranking == ("b", "a") and found.untried == ("c",)
