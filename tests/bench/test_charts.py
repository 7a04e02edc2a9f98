import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeai.bench.charts import Scale, frontier, histogram, roofline_chart
from edgeai.bench.limits import Ceilings, NodeCost

POSITIVE = st.floats(1e-6, 1e12)


@given(st.lists(POSITIVE, min_size=1, max_size=20), st.booleans())
def test_scales_keep_the_order_inside_the_box_and_have_ticks(values: list[float], log: bool) -> None:
    scale = Scale.over(values, 300, log=log)
    places = [scale.at(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(0 <= place <= 300 for place in places)
    ticks = scale.ticks()
    assert len(ticks) <= 8
    assert all(scale.low <= value <= scale.high for value, _ in ticks)


def test_known_places() -> None:
    assert Scale(1, 100, 200, log=True).at(10) == 100
    assert Scale(0, 10, 200).at(2.5) == 50
    assert [value for value, _ in Scale(0, 10, 200).ticks()] == [0, 2, 4, 6, 8, 10]
    assert Scale(0, 10, 200).at(99) == 200, "what lies outside stands at the edge"


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=200))
def test_every_sample_is_in_one_bar(samples: list[int]) -> None:
    values = np.array(samples)
    scale = Scale.over([float(values.min()) / 1e6, float(values.max()) / 1e6], 480, log=True)
    found = histogram(values, scale, 100, p99_ns=None)
    assert 1 <= len(found.bars) <= min(len(set(samples)), 48)
    assert max(height for _, _, height in found.bars) == 100
    assert 0 <= found.p50 <= 480
    assert found.p99 is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_the_frontier_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    best = frontier(points)
    assert any(best)
    for (a, b), kept in zip(points, best, strict=True):
        beaten = [(x, y) for x, y in points if x <= a and y <= b and (x, y) != (a, b)]
        assert kept == (not beaten)


def test_nodes_stand_under_the_roof() -> None:
    ceilings = Ceilings({"float32": 1e11, "int8": 2e11}, 2e10, 5e10, 1 << 20, 2)
    node = NodeCost("n", "MatMul", "cpu", 10_000, 500_000, 10_000, 40_000, "float32")
    chart = roofline_chart([node, NodeCost("r", "Relu", "cpu", 10, 0, 0, 80, "float32")], ceilings, 300, 140)
    assert chart is not None
    assert [dot.label for dot in chart.dots] == ["n (MatMul)"], "what computes nothing has no place in it"
    assert [name for name, _ in chart.roofs] == ["float32", "int8"]
    corner = chart.roofs[0][1].split()[1].split(",")
    assert float(corner[0]) == pytest.approx(chart.x.at(5.0)), "the ridge: 1e11 operations over 2e10 bytes"
    assert chart.dots[0].y > float(corner[1]), "below the ceiling; y grows downwards"
    assert roofline_chart([], ceilings, 300, 140) is None
