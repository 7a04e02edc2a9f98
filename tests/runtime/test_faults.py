"""The fault cases of a session, by their numbers in the list of what a toolkit must survive.

10 wrong feeds, 11 other layouts of the right values, 12 nothing along an axis, 13 NaN and infinity, 19 no memory,
20 a model that never ends.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeai.errors import DeadlineError, InputError, NonFiniteError
from edgeai.runtime.finiteness import NonFiniteWarning
from edgeai.runtime.session import Session
from edgeai.runtime.settings import SessionSettings
from edgeai.spec import Axis, Signature, TensorSpec

Write = Callable[..., Path]
X = np.arange(6, dtype=np.float32).reshape(2, 3)
LOOP = """l (int64 count, float[n] x) => (float[n] y) <bool go = {1}> {
    y = Loop(count, go, x) <body = b (int64 i, bool c, float[n] v) => (bool d, float[n] w)
        { d = Identity(c) w = Neg(v) }> }"""


@pytest.mark.parametrize(
    ("feed", "said"),
    [
        ({"x": X.astype(np.int32)}, ("input x", "float32", "int32")),
        ({"x": X[None]}, ("input x", "rank 2", "(1, 2, 3)")),
        ({"x": X[:, :1]}, ("input x", "axis 1 must be 3", "got 1")),
        ({}, ("missing x", "the model takes x:float32")),
        ({"x": X, "y": X}, ("unknown y", "the model takes x:float32")),
    ],
)
def test_fault_10_a_wrong_feed_is_named_with_what_was_expected_and_what_came(
    double: Path, feed: dict[str, Any], said: tuple[str, ...]
) -> None:
    with Session(double) as session:
        with pytest.raises(InputError) as refusal:
            session.run(feed)
        assert all(words in str(refusal.value) for words in said)
        np.testing.assert_array_equal(session.run({"x": X})["y"], 2 * X)


def _read_only(x: Any) -> Any:
    x.flags.writeable = False
    return x


def _unaligned(x: Any) -> Any:
    memory = np.empty(x.nbytes + 1, np.uint8)
    moved = memory[1:].view(x.dtype).reshape(x.shape)
    moved[...] = x
    assert not moved.flags.aligned
    return moved


@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x.astype(">f4"),
        lambda x: np.asfortranarray(x),
        lambda x: np.repeat(x, 2, axis=0)[::2],
        lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
        lambda x: _read_only(x.copy()),
        lambda x: _unaligned(x),
    ],
    ids=["big-endian", "fortran", "strided", "reversed", "read-only", "unaligned"],
)
def test_fault_11_any_layout_of_the_same_values_is_converted_exactly(
    double: Path, layout: Callable[[Any], Any]
) -> None:
    with Session(double) as session:
        np.testing.assert_array_equal(session.run({"x": layout(X)})["y"], 2 * X)


def test_fault_11_a_row_repeated_without_memory_is_every_row(double: Path) -> None:
    with Session(double) as session:
        repeated = np.broadcast_to(X[:1], (4, 3))
        np.testing.assert_array_equal(session.run({"x": repeated})["y"], 2 * repeated)


@pytest.mark.parametrize("value", [X.tolist(), X.astype(object), X.astype(np.float64), 1.0, None, "x"])
def test_fault_11_whatever_cannot_be_taken_exactly_is_refused(double: Path, value: Any) -> None:
    with Session(double) as session, pytest.raises(InputError, match="input x"):
        session.run({"x": value})


def test_fault_12_no_rows_give_no_rows_unless_the_model_was_declared_to_have_some(model: Write) -> None:
    text = "d (float[batch,3] x) => (float[batch,3] y) <float two = {2}> { y = Mul(x, two) }"
    empty = np.zeros((0, 3), np.float32)
    with Session(model(text)) as session:
        assert session.run({"x": empty})["y"].shape == (0, 3)
    tensor = TensorSpec("x", "float32", ("batch", 3))
    signature = Signature((tensor,), (TensorSpec("y", "float32", ("batch", 3)),), (Axis("batch", 1, 8),))
    with Session(model(text, name="declared.onnx", signature=signature)) as session:
        with pytest.raises(InputError, match=r"input x: axis 0 \(batch\) is empty, but declared as batch:1..8"):
            session.run({"x": empty})
        # A declared range is where the model was proven, not a wall.
        assert session.run({"x": np.zeros((9, 3), np.float32)})["y"].shape == (9, 3)


BAD = np.array([[1, np.nan, 2], [np.inf, 3, -np.inf]], np.float32)


def test_fault_13_nan_and_infinity_pass_unless_asked_about(double: Path) -> None:
    with Session(double) as session:
        np.testing.assert_array_equal(session.run({"x": BAD})["y"], 2 * BAD)


def test_fault_13_nan_and_infinity_are_warned_of(double: Path) -> None:
    with Session(double, settings=SessionSettings(non_finite="warn")) as session:
        with pytest.warns(NonFiniteWarning) as found:
            session.run({"x": BAD})
        texts = [str(warning.message) for warning in found]
        session.run({"x": X})
    assert texts == [
        f"{what}: 1 NaN and 2 infinite of 6 values, the first at [0, 1]" for what in ("input x", "output y")
    ]


def test_fault_13_nan_and_infinity_are_refused(double: Path, model: Write) -> None:
    refusing = SessionSettings(non_finite="refuse")
    with Session(double, settings=refusing) as session:
        with pytest.raises(InputError, match="input x: 1 NaN and 2 infinite of 6 values"):
            session.run({"x": BAD})
        with pytest.raises(NonFiniteError, match=r"output y: 1 infinite of 3 values, the first at \[0, 2\]"):
            session.run({"x": np.array([[1, 2, 3e38]], np.float32)})
        np.testing.assert_array_equal(session.run({"x": X})["y"], 2 * X)
    integers = model("i (int64[n] x) => (int64[n] y) { y = Identity(x) }", name="integers.onnx")
    with Session(integers, settings=refusing) as session:
        assert session.run({"x": np.array([7])})["y"].tolist() == [7]


_STARVED = """
import resource, sys
import numpy as np
from edgeai.errors import ResourceLimitError
from edgeai.runtime.session import Session
from edgeai.runtime.settings import SessionSettings
with Session(sys.argv[1], ep="cpu", settings=SessionSettings(threads=1)) as session:
    few = {"n": np.array([4, 2])}
    session.run(few)
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, resource.RLIM_INFINITY))
    for _ in range(3):
        try: session.run({"n": np.array([1 << 20, 1 << 12])})  # 16 GiB
        except ResourceLimitError as error: assert "out of memory" in str(error) and "smaller batch" in str(error)
        else: raise SystemExit("computed")
        assert session.run(few)["y"].shape == (4, 2)
print("survived")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS")
def test_fault_19_a_run_without_memory_fails_alone(model: Write) -> None:
    path = model("m (int64[2] n) => (float[a,b] y) { y = ConstantOfShape(n) }")
    command = [sys.executable, "-c", _STARVED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "survived\n", "")


def test_fault_20_a_model_that_never_ends_is_ended_and_the_session_answers_on(model: Write) -> None:
    with Session(model(LOOP)) as session:
        for _ in range(2):
            begun = time.monotonic()
            with pytest.raises(DeadlineError, match="was not done in its time, and was ended"):
                session.run({"count": np.array(2**62), "x": X[0]}, timeout=0.1)
            assert time.monotonic() - begun < 30
            np.testing.assert_array_equal(session.run({"count": np.array(3), "x": X[0]}, timeout=60)["y"], -X[0])
