"""Bound buffers are read and written where they are, stay alive, and nothing that would not work is bound."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeai.errors import DeadlineError, InputError, UsageError
from edgeai.runtime.session import Session

Write = Callable[..., Path]
X = np.arange(6, dtype=np.float32).reshape(2, 3)


class Tensor:
    """Speaks DLPack and nothing else."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, *, stream: Any = None) -> Any:
        return self.array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


def test_buffers_are_read_and_written_in_place(double: Path) -> None:
    x, y = X.copy(), np.zeros_like(X)
    with Session(double) as session:
        binding = session.bind({"x": x}, {"y": y})
        for scale in (1, 3):
            x[...] = scale * X
            assert session.run_bound(binding)["y"] is y
            np.testing.assert_array_equal(y, 2 * scale * X)
        assert session.run_bound(binding, timeout=60)["y"] is y


def test_outputs_that_were_not_given_get_buffers_of_their_size(model: Write) -> None:
    text = "t (float[batch,3] x) => (float[batch,3] y, float[batch] s) { y = Neg(x) s = ReduceSum<keepdims=0>(x, a) }"
    path = model(text.replace("{ y", "<int64[1] a = {1}> { y", 1))
    x, y = X.copy(), np.zeros_like(X)
    with Session(path) as session:
        binding = session.bind({"x": x}, {"y": y})
        x[...] = 5
        answer = session.run_bound(binding)
    assert answer["y"] is y and y.max() == -5
    assert answer["s"].tolist() == [15, 15]


def test_what_is_bound_stays_alive(double: Path) -> None:
    with Session(double) as session:
        bindings = [session.bind({"x": np.full((64, 3), n, np.float32)}) for n in range(20)]
        tensors = [session.bind({"x": Tensor(np.full((64, 3), n, np.float32))}) for n in range(20)]
        gc.collect()
        rubbish = [np.full((64, 3), -1, np.float32) for _ in range(200)]
        for n, (binding, tensor) in enumerate(zip(bindings, tensors, strict=True)):
            np.testing.assert_array_equal(session.run_bound(binding)["y"], np.full((64, 3), 2 * n))
            np.testing.assert_array_equal(session.run_bound(tensor)["y"], np.full((64, 3), 2 * n))
        assert len(rubbish) == 200


def test_dlpack_tensors_share_their_memory(double: Path) -> None:
    x, y = X.copy(), np.zeros_like(X)
    with Session(double) as session:
        binding = session.bind({"x": Tensor(x)}, {"y": Tensor(y)})
        x += 1
        session.run_bound(binding)
    np.testing.assert_array_equal(y, 2 * (X + 1))


def test_torch_tensors_are_bound(double: Path) -> None:
    torch = pytest.importorskip("torch")
    x, y = torch.tensor(X), torch.zeros(2, 3)
    with Session(double) as session:
        session.run_bound(session.bind({"x": x}, {"y": y}))
        assert torch.equal(y, 2 * x)
        for tensor, reason in (
            (torch.zeros(3, 2).T, "its memory cannot be shared"),
            (torch.zeros(2, 3, requires_grad=True), "its memory cannot be shared"),
            (torch.zeros(2, 3, dtype=torch.float64), "expected float32, got float64"),
            (torch.zeros(2, 3, dtype=torch.bfloat16), "expected float32, got uint16"),
        ):
            with pytest.raises(InputError, match=f"input x: {reason}"):
                session.bind({"x": tensor})


def _frozen(array: Any) -> Any:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("inputs", "outputs", "reason"),
    [
        ({}, {}, "missing x"),
        ({"x": X, "z": X}, {}, "unknown z"),
        ({"x": X.tolist()}, {}, "input x: expected a numpy array or a DLPack tensor, got list"),
        ({"x": X.astype(np.float64)}, {}, "input x: expected float32, got float64"),
        ({"x": X[0]}, {}, "input x: expected rank 2"),
        ({"x": np.zeros((3, 2), np.float32)}, {}, "input x: axis 1 must be 3, got 2"),
        ({"x": np.asfortranarray(X)}, {}, "input x: its memory cannot be shared: it is not contiguous"),
        ({"x": X.astype(">f4")}, {}, "input x: its memory cannot be shared: byte order >f4"),
        ({"x": X.astype(object)}, {}, "input x: its memory cannot be shared: dtype object"),
        ({"x": np.ma.array(X)}, {}, "input x: its memory cannot be shared: a MaskedArray"),
        ({"x": X}, {"y": np.zeros((2, 3))}, "output y: expected float32, got float64"),
        ({"x": X}, {"y": np.zeros((2, 4), np.float32)}, r"output y: expected y:float32\[batch,3\], got shape \(2, 4\)"),
        ({"x": X}, {"y": np.zeros(6, np.float32)}, r"output y: expected .* got shape \(6,\)"),
        ({"x": X}, {"y": _frozen(X.copy())}, "output y: its memory cannot be shared: it is read-only"),
    ],
)
def test_buffers_that_do_not_fit_are_refused(
    double: Path, inputs: dict[str, Any], outputs: dict[str, Any], reason: str
) -> None:
    with Session(double) as session, pytest.raises(InputError, match=reason):
        session.bind(inputs, outputs)


def test_an_unknown_output_is_named(double: Path) -> None:
    with Session(double) as session, pytest.raises(UsageError, match=r"there is no output z \(the model gives y\)"):
        session.bind({"x": X}, {"z": X.copy()})


def test_text_cannot_be_bound(model: Write) -> None:
    session = Session(model("t (string[n] x) => (string[n] y) { y = Identity(x) }"))
    with session, pytest.raises(InputError, match=r"input x: .*dtype object \(text cannot be bound"):
        session.bind({"x": np.array(["a"], object)})


def test_an_output_of_another_size_than_its_buffer_is_an_error_not_an_overrun(double: Path) -> None:
    guard = np.full((4, 3), 7, np.float32)
    with Session(double) as session:
        binding = session.bind({"x": X}, {"y": guard[:1]})
        with pytest.raises(InputError, match="has shape .1,3. but the computed output shape"):
            session.run_bound(binding)
    assert (guard == 7).all()


def test_buffers_that_share_memory_are_refused_unless_that_is_meant(double: Path, model: Write) -> None:
    memory = np.zeros((3, 3), np.float32)
    with Session(double) as session:
        with pytest.raises(InputError, match="output y: its memory is also that of input x"):
            session.bind({"x": memory[:2]}, {"y": memory[1:]})
        binding = session.bind({"x": memory[:2]}, {"y": memory[:2]}, in_place={"y"})
        memory[:] = 1
        session.run_bound(binding)
        session.run_bound(binding)
        assert memory[:2].tolist() == [[4, 4, 4]] * 2 and memory[2].tolist() == [1, 1, 1]
    two = model("t (float[n] x) => (float[n] y, float[n] z) { y = Neg(x) z = Abs(x) }", name="two.onnx")
    with Session(two) as session, pytest.raises(InputError, match="output z: its memory is also that of output y"):
        session.bind({"x": X[0].copy()}, {"y": memory[0], "z": memory[0]})


def test_a_binding_belongs_to_one_session_and_ends_with_it(double: Path) -> None:
    with Session(double) as session, Session(double) as other:
        binding = session.bind({"x": X})
        with pytest.raises(UsageError, match="the binding is another session's"):
            other.run_bound(binding)
        session.close()
        for run in (lambda: session.run_bound(binding), lambda: session.bind({"x": X})):
            with pytest.raises(UsageError, match="the session is closed"):
                run()
        with pytest.raises(UsageError, match="the binding's session is closed"):
            binding.run()


def test_a_binding_is_for_one_thread_at_a_time_and_can_be_ended(model: Write) -> None:
    text = """l (int64 count, float[n] x) => (float[n] y) <bool go = {1}> { y = Loop(count, go, x)
        <body = b (int64 i, bool c, float[n] v) => (bool d, float[n] w) { d = Identity(c) w = Neg(v) }> }"""
    count = np.array(1, np.int64)
    met: list[str] = []
    with Session(model(text)) as session:
        binding = session.bind({"count": count, "x": X[0]})
        count[...] = 2**62

        def forever() -> None:
            try:
                session.run_bound(binding, timeout=1)
            except (DeadlineError, UsageError) as error:
                met.append(str(error))

        thread = threading.Thread(target=forever)
        thread.start()
        while thread.is_alive():
            try:
                session.run_bound(binding, timeout=1)
            except (DeadlineError, UsageError) as error:
                met.append(str(error))
        thread.join()
        count[...] = 3
        np.testing.assert_array_equal(session.run_bound(binding)["y"], -X[0])
    for words in ("in use by another thread", "was not done in its time"):
        assert any(words in text for text in met)
