import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeai.errors import InputError
from edgeai.spec import DTYPES, Axis, Signature, TensorSpec

TWO = Signature(
    (TensorSpec("ids", "int64", ("batch", "seq"), 0, 100), TensorSpec("x", "float32", ("batch", 3))),
    (TensorSpec("y", "float32", ("batch",)),),
    (Axis("batch", 1, 8),),
)


def feed(**changes: object) -> dict[str, object]:
    return {"ids": np.zeros((2, 5), np.int64), "x": np.zeros((2, 3), np.float32)} | changes


def test_a_fitting_feed_passes_even_beyond_the_proven_range() -> None:
    TWO.check(feed())
    TWO.check({"ids": np.zeros((99, 0), np.int64), "x": np.zeros((99, 3), np.float32)})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"x": [[1.0, 2.0, 3.0]]}, "input x: expected a numpy array, got list"),
        (
            {"x": np.zeros((2, 3))},
            r"input x: expected float32, got float64 \(convert it: array.astype\(np.float32\)\)",
        ),
        ({"x": np.zeros((2, 3), ">f4")}, "input x: byte order >f4 is not this machine's"),
        (
            {"x": np.zeros(3, np.float32)},
            r"input x: expected rank 2 \(x:float32\[batch,3\]\), got shape \(3,\)",
        ),
        ({"x": np.zeros((2, 4), np.float32)}, "input x: axis 1 must be 3, got 4"),
        ({"x": np.zeros((3, 3), np.float32)}, r"input x: axis 0 \(batch\) is 3, but 2 in input ids"),
        (
            {"z": np.zeros(1)},
            r"unknown z \(the model takes ids:int64\[batch,seq\]<100, x:float32\[batch,3\]\)",
        ),
    ],
)
def test_a_wrong_feed_is_explained(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        TWO.check(feed(**changes))


def test_a_missing_input_is_named() -> None:
    with pytest.raises(InputError, match="missing x"):
        TWO.check({"ids": np.zeros((2, 5), np.int64)})


def test_strings_are_checked_by_kind() -> None:
    signature = Signature((TensorSpec("text", "string", ("n",)),), ())
    signature.check({"text": np.array(["a", "bc"])})
    with pytest.raises(InputError, match="expected strings, got int64"):
        signature.check({"text": np.array([1])})


def test_an_axis_needs_a_range() -> None:
    with pytest.raises(InputError, match=r"axis n: 5\.\.2 is not a range"):
        Axis("n", 5, 2)
    assert TWO.axis("batch").maximum == 8
    assert TWO.axis("seq") == Axis("seq")


def test_an_axis_of_multiples_keeps_only_them() -> None:
    axis = Axis("height", 1, 300, 32)
    assert (axis.minimum, axis.maximum, str(axis)) == (32, 288, "height:32..288/32")
    assert [axis.nearest(size) for size in (0, 33, 95, 96, 999)] == [32, 32, 64, 96, 288]
    assert Axis("n", 0, 64, 32).minimum == 0 and str(Axis("n", 0, 5)) == "n:0..5"
    with pytest.raises(InputError, match=r"there is no multiple of 32 in 33\.\.63"):
        Axis("n", 33, 63, 32)
    with pytest.raises(InputError, match="cannot be multiples of 0"):
        Axis("n", 1, 2, 0)


def test_a_signature_that_was_written_before_there_were_multiples_still_reads() -> None:
    old = {"inputs": [], "outputs": [], "axes": [{"name": "batch", "minimum": 1, "maximum": 8}]}
    assert Signature.from_json(old).axes == (Axis("batch", 1, 8),)


names = st.text("abcdefgh._0", min_size=1, max_size=8)
tensors = st.builds(
    TensorSpec,
    names,
    st.sampled_from(DTYPES),
    st.lists(st.one_of(st.integers(0, 9), names), max_size=4).map(tuple),
    st.none() | st.integers(-5, 5),
    st.none() | st.integers(6, 50),
)
signatures = st.builds(
    Signature,
    st.lists(tensors, max_size=3).map(tuple),
    st.lists(tensors, max_size=3).map(tuple),
    st.lists(st.builds(Axis, names, st.integers(0, 3), st.integers(4, 9), st.integers(1, 4)), max_size=2).map(tuple),
)


@given(signatures)
def test_json_round_trip(signature: Signature) -> None:
    assert Signature.from_json(json.loads(json.dumps(signature.to_json()))) == signature


arrays = st.sampled_from([None, 3, "s", np.zeros(2), np.zeros((1, 1), np.int64), np.array([{}], object)])


@given(signatures, st.dictionaries(names, arrays, max_size=3))
def test_check_accepts_or_explains_and_never_crashes(signature: Signature, values: dict[str, object]) -> None:
    try:
        signature.check(values)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert values.keys() == set(signature.input_names)
