import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeai.tuning.choice import SMALLER_SHARE, Measured, choose

BASE = Measured("fp32", 1000)


def candidate(name: str, size: int, ratio: float, *, spread: float = 0.02, refused: str = "") -> Measured:
    return Measured(name, size, ratio, ratio - spread, ratio + spread, refused)


@pytest.mark.parametrize(
    ("candidates", "winner", "name", "reason"),
    [
        ([], "fp32", "fp32", "kept: nothing that keeps the accuracy was measured faster"),
        ([candidate("int8", 300, 0.5)], "int8", "int8", "kept: 0.50x the time (0.48..0.52), 30% of the size"),
        ([candidate("int8", 300, 0.5)], "int8", "fp32", "replaced by int8"),
        ([candidate("int8", 300, 1.2)], "fp32", "int8", "slower than fp32: 1.20x the time"),
        ([candidate("int8", 300, 0.5, refused="accuracy fell")], "fp32", "int8", "accuracy fell"),
        ([candidate("int8", 300, 1.0)], "int8", "int8", "kept: 1.00x the time"),
        ([candidate("opt", 990, 1.0)], "fp32", "opt", "neither faster nor smaller: 1.00x the time"),
        ([candidate("int8", 300, 1.0, spread=0.4)], "fp32", "int8", "not shown to be as fast: 1.00x the time"),
        ([candidate("opt", 990, 0.99, spread=0.005)], "fp32", "opt", "neither faster nor smaller"),
        ([candidate("a", 300, 0.5), candidate("b", 900, 0.4)], "b", "a", "but b is faster"),
        ([candidate("a", 300, 0.42), candidate("b", 900, 0.4)], "a", "b", "but a is smaller"),
        ([candidate("a", 300, 1.0), candidate("b", 990, 0.8)], "b", "a", "b is faster"),
        ([candidate("a", 300, 1.0), candidate("b", 200, 1.01)], "b", "a", "b is smaller"),
    ],
)
def test_the_rule_and_its_reasons(candidates: list[Measured], winner: str, name: str, reason: str) -> None:
    choice = choose(BASE, candidates)
    assert choice.name == winner
    assert reason in choice.reasons[name]


measured = st.builds(
    lambda size, ratio, below, above, refused: Measured("", size, ratio, ratio - below, ratio + above, refused),
    st.integers(1, 2000),
    st.floats(0.1, 3),
    st.floats(0, 0.1),
    st.floats(0, 0.1),
    st.sampled_from(["", "", "worse"]),
)


@given(st.lists(measured, max_size=6))
def test_do_no_harm(found: list[Measured]) -> None:
    named = [Measured(f"c{i}", *(getattr(c, f) for f in FIELDS)) for i, c in enumerate(found)]
    choice = choose(BASE, named)
    assert set(choice.reasons) == {"fp32", *(c.name for c in named)}
    assert all(choice.reasons.values())
    winner = next((c for c in named if c.name == choice.name), BASE)
    assert not winner.refused
    assert winner is BASE or winner.is_faster or winner.is_as_fast
    assert winner is BASE or winner.is_faster or winner.size_bytes < SMALLER_SHARE * BASE.size_bytes


FIELDS = ("size_bytes", "ratio", "ratio_low", "ratio_high", "refused")
