"""What is stacked comes apart again as it was, padded or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeai.errors import InputError, UsageError
from edgeai.runtime.stacking import Padding, Stacking
from edgeai.spec import Signature, TensorSpec


def _signature(inputs: dict[str, tuple[int | str, ...]], outputs: dict[str, tuple[int | str, ...]]) -> Signature:
    def specs(shapes: dict[str, tuple[int | str, ...]]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name, "float32", shape) for name, shape in shapes.items())

    return Signature(specs(inputs), specs(outputs))


TEXT = _signature(
    {"ids": ("batch", "seq"), "mask": ("batch", "seq")}, {"hidden": ("batch", "seq", 2), "pooled": ("batch", 2)}
)
PADDING = Padding("seq", (4, 8), {"ids": 9, "mask": 0})


def _hidden(feed: Any) -> dict[str, Any]:
    """An engine whose answer does not depend on what the mask hides."""
    seen = feed["ids"] * feed["mask"]
    return {"hidden": np.stack([seen, -seen], -1), "pooled": np.stack([seen.sum(1), feed["mask"].sum(1)], -1)}


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 10)), min_size=1, max_size=6), st.booleans())
@settings(max_examples=60, deadline=None)
def test_rows_come_back_to_whom_they_belong(sizes: list[tuple[int, int]], padded: bool) -> None:
    stacking = Stacking(TEXT, PADDING if padded else None)
    feeds = [
        {"ids": np.full((rows, length), i + 1, np.float32), "mask": np.ones((rows, length), np.float32)}
        for i, (rows, length) in enumerate(sizes)
    ]
    groups: dict[Any, list[Any]] = {}
    for feed in feeds:
        groups.setdefault(stacking.key(feed), []).append(feed)
    if padded:
        assert len(groups) == len({next((size for size in (4, 8) if size >= length), length) for _, length in sizes})
    for group in groups.values():
        stacked = stacking.stack(group)
        assert stacked["ids"].shape[0] == sum(map(stacking.rows, group))
        for feed, answer in zip(group, stacking.split(_hidden(stacked), group), strict=True):
            for name, expected in _hidden(feed).items():
                np.testing.assert_array_equal(answer[name], expected)


def test_an_answer_does_not_keep_its_neighbours_in_memory() -> None:
    stacking = Stacking(TEXT)
    feeds = [{"ids": np.ones((1, 4), np.float32), "mask": np.ones((1, 4), np.float32)}] * 3
    answers = stacking.split(_hidden(stacking.stack(feeds)), feeds)
    assert all(array.base is None for answer in answers for array in answer.values())


@pytest.mark.parametrize(
    ("inputs", "outputs", "reason"),
    [
        ({"x": ("batch", 3)}, {"y": (1, 3)}, r"y:float32\[1,3\] does not share its axis 0"),
        ({"x": ("batch", 3)}, {"y": ()}, r"y:float32\[\] does not share"),
        ({"x": (1, 3)}, {"y": (1, 3)}, r"x:float32\[1,3\] does not share"),
        ({"x": ("batch", 3), "z": ("other", 3)}, {"y": ("batch", 3)}, r"z:float32\[other,3\] does not share"),
        ({"x": ("batch", "seq")}, {"y": ("seq",)}, r"y:float32\[seq\] does not share"),
    ],
)
def test_models_without_rows_are_refused(inputs: Any, outputs: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Stacking(_signature(inputs, outputs))


def test_an_output_may_name_its_batch_axis_otherwise_but_must_have_one() -> None:
    stacking = Stacking(_signature({"x": ("batch", 3)}, {"y": ("y_0", 3)}))
    feeds = [{"x": np.ones((2, 3), np.float32)}] * 2
    assert [
        answer["y"].shape for answer in stacking.split(stacking.stack(feeds) and {"y": np.ones((4, 3))}, feeds)
    ] == [(2, 3)] * 2
    with pytest.raises(InputError, match=r"output y has shape \(1, 3\) for 4 rows: it cannot be split"):
        stacking.split({"y": np.ones((1, 3))}, feeds)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("seq", (), {}), r"sizes \[\] are not positive and rising"),
        (("seq", (8, 4), {}), "not positive and rising"),
        (("seq", (0, 4), {}), "not positive and rising"),
        (("seq", (4,), {"ids": 0}), "values for ids .the inputs with that axis are: ids, mask"),
        (("seq", (4,), {"ids": 0, "mask": 0, "z": 0}), "values for ids, mask, z"),
        (("batch", (4,), {"ids": 0, "mask": 0}), "cannot be padded along batch"),
        (("width", (4,), {}), "the inputs with that axis are: none"),
    ],
)
def test_a_padding_that_does_not_fit_is_refused(arguments: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Stacking(TEXT, Padding(*arguments))


def test_an_axis_that_is_a_sum_cannot_be_padded() -> None:
    signature = _signature({"ids": ("batch", "seq"), "mask": ("batch", "past+seq")}, {"y": ("batch",)})
    with pytest.raises(UsageError, match="mask.*cannot be padded along seq"):
        Stacking(signature, Padding("seq", (4,), {"ids": 0}))
