"""A session runs where it was told to, takes what fits exactly, and explains the rest in one line."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxruntime.capi import onnxruntime_pybind11_state

from edgeai.errors import (
    EdgeAIError,
    InputError,
    ModelFormatError,
    ProviderError,
    ResourceLimitError,
    UnsafePathError,
    UsageError,
)
from edgeai.runtime import opening, providers
from edgeai.runtime.engine import Engine
from edgeai.runtime.session import Session
from edgeai.runtime.settings import SessionSettings
from edgeai.samples import Samples
from edgeai.spec import Axis, Signature, TensorSpec

X = np.arange(6, dtype=np.float32).reshape(2, 3)

Write = Callable[..., Path]


def test_runs_and_says_what_it_is(double: Path) -> None:
    with Session(double, ep="cpu") as session:
        assert isinstance(session, Engine)
        np.testing.assert_array_equal(session.run({"x": X})["y"], 2 * X)
        assert session.signature.inputs == (TensorSpec("x", "float32", ("batch", 3)),)
        assert session.providers == ("cpu",)
        assert session.placement.share("cpu") == 1.0
        assert session.skipped == ()
        assert "cpu 1/1 (100%)" in repr(session)


def test_reads_the_stamp(model: Write) -> None:
    stamped = Signature(
        (TensorSpec("x", "float32", ("batch", 3)),), (TensorSpec("y", "float32", ("batch", 3)),), (Axis("batch", 1, 8),)
    )
    session = Session(model(DOUBLE_TEXT, signature=stamped))
    assert session.signature == stamped
    assert [(step.tool, step.options) for step in session.lineage] == [("test", {"k": 1})]


DOUBLE_TEXT = "d (float[batch,3] x) => (float[batch,3] y) <float two = {2}> { y = Mul(x, two) }"


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (TensorSpec("x", "float64", ("batch", 3)), r"x:float64\[batch,3\] where the graph has x:float32"),
        (TensorSpec("z", "float32", ("batch", 3)), "z:float32.* where the graph has x"),
        (TensorSpec("x", "float32", ("batch",)), r"x:float32\[batch\] where"),
    ],
)
def test_a_stamp_of_another_graph_is_refused(model: Write, tensor: TensorSpec, reason: str) -> None:
    lie = Signature((tensor,), (TensorSpec("y", "float32", ("batch", 3)),))
    with pytest.raises(ModelFormatError, match=reason):
        Session(model(DOUBLE_TEXT, signature=lie))


def test_a_stamp_with_too_few_outputs_is_refused(model: Write) -> None:
    lie = Signature((TensorSpec("x", "float32", ("batch", 3)),), ())
    with pytest.raises(ModelFormatError, match="another number of inputs or outputs"):
        Session(model(DOUBLE_TEXT, signature=lie))


def test_inputs_that_are_no_tensors_are_refused(model: Write) -> None:
    path = model("s (seq(float[n]) x) => (int64 y) { y = SequenceLength(x) }")
    with pytest.raises(ModelFormatError, match=r"x is seq\(tensor\(float\)\), and only tensors"):
        Session(path)


def test_unnamed_axes_and_scalars_get_a_signature(model: Write) -> None:
    session = Session(model("s (float[?,3] x, double q) => (float[?,3] y, double r) { y = Relu(x) r = Neg(q) }"))
    assert session.signature.inputs == (TensorSpec("x", "float32", ("x_0", 3)), TensorSpec("q", "float64", ()))
    answer = session.run({"x": -X, "q": np.array(2.0)})
    assert answer["r"] == -2.0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"hello world\n" * 20, "not an ONNX model"),
        (os.urandom(4096), "not an ONNX model|cannot open it"),
        (b"\x0a\x02\xff\xff", "cannot open it"),
        (b"\x08\x08", "cannot open it"),
        (b"xxxxORTM" + bytes(100), "not an ONNX model"),
    ],
)
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFormatError, match=reason) as refusal:
        Session(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@given(cut=st.integers(1, 120), flip=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_a_damaged_model_is_refused_or_runs(tmp_path_factory: pytest.TempPathFactory, cut: int, flip: int) -> None:
    parsed = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {DOUBLE_TEXT}')
    data = bytearray(parsed.SerializeToString())
    data[flip % len(data)] ^= 0x20
    path = tmp_path_factory.mktemp("damaged") / "m.onnx"
    path.write_bytes(data[:-cut] if flip % 2 else data)
    try:
        Session(path).close()
    except EdgeAIError as error:
        assert isinstance(error, ModelFormatError | UnsafePathError)


def test_missing_file_and_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match=r"no\.onnx: no such file"):
        Session(tmp_path / "no.onnx")
    with pytest.raises(ModelFormatError, match="is a directory, not a model"):
        Session(tmp_path)


def test_weights_outside_the_directory_are_refused_before_onnxruntime_sees_them(
    model: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = onnx.load(model(DOUBLE_TEXT))
    tensor = parsed.graph.initializer[0]
    tensor.raw_data = tensor.SerializeToString()
    onnx.external_data_helper.set_external_data(tensor, "../secret.bin")
    tensor.ClearField("raw_data")
    path = tmp_path / "outside.onnx"
    path.write_bytes(parsed.SerializeToString())
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(UnsafePathError, match=r"refers to '\.\./secret\.bin', which lies outside"):
        Session(path)


@pytest.mark.parametrize(
    ("feed", "reason"),
    [
        ({}, r"missing x \(the model takes x:float32"),
        ({"x": X, "z": X}, "unknown z"),
        ({"x": X.astype(np.float64)}, r"expected float32, got float64 \(convert it"),
        ({"x": X[0]}, "expected rank 2"),
        ({"x": X[:, :2]}, r"axis 1 must be 3, got 2"),
        ({"x": X.tolist()}, "expected a numpy array, got list"),
        ({"x": X.astype(object)}, "expected float32, got object"),
        ({"x": np.ma.array(X, mask=X > 2)}, "a masked array"),
    ],
)
def test_a_feed_that_does_not_fit_is_explained(double: Path, feed: dict[str, Any], reason: str) -> None:
    with Session(double) as session, pytest.raises(InputError, match=reason):
        session.run(feed)


def test_axes_that_share_a_name_must_agree(model: Write) -> None:
    session = Session(model("a (float[n] a, float[n] b) => (float[n] y) { y = Add(a, b) }"))
    ones = np.ones(3, np.float32)
    np.testing.assert_array_equal(session.run({"b": ones, "a": ones})["y"], 2 * ones)
    with pytest.raises(InputError, match=r"axis 0 \(n\) is 1, but 3 in input a"):
        session.run({"a": ones, "b": ones[:1]})


def test_what_the_model_itself_refuses_is_one_line(model: Write) -> None:
    session = Session(model("b (float[n] a, float[m] b) => (float[k] y) { y = Add(a, b) }"))
    with pytest.raises(InputError, match="the model cannot compute this input: .* 3 by 4") as refusal:
        session.run({"a": np.ones(3, np.float32), "b": np.ones(4, np.float32)})
    assert "\n" not in str(refusal.value)


@given(
    dtype=st.sampled_from(["float32", "float64", "float16", "int8", "uint16", "int32", "int64", "bool"]),
    big_endian=st.booleans(),
    steps=st.tuples(st.sampled_from([1, 2, -1]), st.sampled_from([1, 3, -2])),
    fortran=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_layout_of_the_same_values_gives_the_same_answer(
    tmp_path_factory: pytest.TempPathFactory, dtype: str, big_endian: bool, steps: tuple[int, int], fortran: bool
) -> None:
    name = {"float32": "float", "float64": "double"}.get(dtype, dtype)
    path = tmp_path_factory.getbasetemp() / f"identity-{dtype}.onnx"
    text = f'<ir_version: 8, opset_import: ["": 17]> i ({name}[a,b] x) => ({name}[a,b] y) {{ y = Identity(x) }}'
    if not path.exists():
        onnx.save(onnx.parser.parse_model(text), path)
    values = np.arange(30).reshape(5, 6).astype(dtype)
    view = np.asfortranarray(values)[:: steps[0], :: steps[1]] if fortran else values[:: steps[0], :: steps[1]]
    if big_endian:
        view = view.astype(view.dtype.newbyteorder(">"))
    with Session(path) as session:
        answer = session.run({"x": view})["y"]
    assert answer.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(answer, values[:: steps[0], :: steps[1]])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.array(["a", None], object), "expected text, got NoneType None"),
        (np.array(["a", 3], object), "expected text, got int 3"),
        (np.array([b"a"]), "expected text, got bytes"),
        (np.array(["\ud800"]), "lone surrogate"),
        (np.array([1.0]), "expected strings, got float64"),
    ],
)
def test_strings_are_text_or_refused(model: Write, value: Any, reason: str) -> None:
    session = Session(model("t (string[n] x) => (string[n] y) { y = Identity(x) }"))
    for text in (np.array(["é", "日本"]), np.array(["é", "日本"], object)):
        assert session.run({"x": text})["y"].tolist() == ["é", "日本"]
    with pytest.raises(InputError, match=reason):
        session.run({"x": value})


def test_closed_sessions_say_so(double: Path) -> None:
    session = Session(double)
    session.close()
    session.close()
    with pytest.raises(UsageError, match="the session is closed"):
        session.run({"x": X})


def test_failures_of_the_provider_and_of_memory_keep_their_kind(double: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(double)
    for error, kind, reason in (
        (onnxruntime_pybind11_state.EPFail("gone"), ProviderError, "the execution provider failed: gone"),
        (RuntimeError("std::bad_alloc"), ResourceLimitError, "out of memory.*smaller batch"),
        (MemoryError(), ResourceLimitError, "out of memory: MemoryError"),
    ):

        def fail(*_: object, error: Exception = error) -> Any:
            raise error

        monkeypatch.setattr(session, "_call", fail)
        with pytest.raises(kind, match=reason):
            session.run({"x": X})


def test_samples_run_as_rows_or_feeds(double: Path, model: Write) -> None:
    session = Session(double)
    np.testing.assert_array_equal(session.run_samples(Samples.from_rows({"x": X})).rows["y"], 2 * X)
    feeds = session.run_samples(Samples.from_feeds([{"x": X}, {"x": X[:1]}]))
    assert [feed["y"].shape for feed in feeds.feeds()] == [(2, 3), (1, 3)]
    total = Session(model("t (float[batch,3] x) => (float s) { s = ReduceSum<keepdims = 0>(x) }", name="t.onnx"))
    assert [float(feed["s"]) for feed in total.run_samples(Samples.from_rows({"x": X})).feeds()] == [3.0, 12.0]


def test_threads_run_at_once_and_do_not_mix(double: Path) -> None:
    wrong: list[int] = []
    with Session(double, settings=SessionSettings(threads=1)) as session:

        def work(seed: int) -> None:
            random = np.random.default_rng(seed)
            for _ in range(200):
                x = random.random((int(random.integers(1, 9)), 3), np.float32)
                if not np.array_equal(session.run({"x": x})["y"], 2 * x):
                    wrong.append(seed)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


@pytest.mark.skipif(providers.reason("cuda") is None, reason="needs a machine where CUDA does not load")
def test_a_provider_that_is_not_there_is_refused_with_the_library_and_the_remedy(double: Path) -> None:
    with pytest.raises(ProviderError, match=r"cuda does not run here: .*(libcu.*\.so|built without)"):
        Session(double, ep="cuda")


@pytest.mark.skipif(providers.reason("cuda") is None, reason="needs a machine where CUDA does not load")
@pytest.mark.parametrize("how", [{"ep": ("tensorrt", "cuda", "cpu")}, {"ep": "tensorrt", "fallback": ("cuda", "cpu")}])
def test_a_fallback_is_explicit_and_reported(double: Path, how: dict[str, Any]) -> None:
    with Session(double, **how) as session:
        assert session.providers == ("cpu",)
        assert [sentence.split()[2] for sentence in session.skipped] == ["tensorrt", "cuda"]


@pytest.mark.skipif(providers.reason("cuda") is None, reason="needs a machine where CUDA does not load")
def test_nothing_of_onnxruntimes_own_noise_comes_out(double: Path) -> None:
    code = f"""
import edgeai.runtime as r
from edgeai.errors import ProviderError
import edgeai.runtime.opening as s
for ep in ("tensorrt", "cuda"):
    try: r.load({str(double)!r}, ep=ep)
    except ProviderError as error: assert "does not run here" in str(error)
    else: raise SystemExit("loaded")
# past the preflight, ONNX Runtime itself fails to load the library
s.refuse_unavailable = lambda name: None
s.reason = lambda name: None
try: r.load({str(double)!r}, ep="cuda")
except ProviderError as error: assert "did not start: its libraries load, but" in str(error)
else: raise SystemExit("loaded")
r.load({str(double)!r}).close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class Pretend:
    """An InferenceSession that claims to be on another provider."""

    def __init__(self, assigned: str, first: str = "CUDAExecutionProvider") -> None:
        self.assigned, self.first = assigned, first

    def disable_fallback(self) -> None: ...

    def get_providers(self) -> list[str]:
        return [self.first, "CPUExecutionProvider"]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        node = type("Node", (), {"name": "n", "op_type": "Mul", "domain": ""})
        return [type("Part", (), {"ep_name": self.assigned, "get_nodes": lambda _: [node]})()]


@pytest.fixture
def cuda_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (opening, providers.availability):
        monkeypatch.setattr(module, "reason", lambda name: None)
    monkeypatch.setattr(opening, "refuse_unavailable", lambda name: None)


@pytest.mark.usefixtures("cuda_loads")
def test_a_provider_that_takes_no_node_is_refused(double: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    idle = Pretend("CPUExecutionProvider")
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: idle)
    with pytest.raises(ProviderError, match=r"cuda implements no node of this model \(cpu 1/1"):
        Session(double, ep="cuda")


@pytest.mark.usefixtures("cuda_loads")
def test_a_provider_that_takes_no_node_gives_way_to_the_fallback(double: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = onnxruntime.InferenceSession

    def create(*arguments: Any, providers: list[Any], **more: Any) -> Any:
        if providers[0][0] == "CUDAExecutionProvider":
            assert [name for name, _ in providers] == ["CUDAExecutionProvider", "CPUExecutionProvider"]
            assert providers[0][1]["device_id"] == "1"
            return Pretend("CPUExecutionProvider")
        return real(*arguments, providers=providers, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", create)
    with Session(double, ep="cuda", fallback=["cpu"], options={"cuda": {"device_id": 1}}) as session:
        assert session.providers == ("cpu",)
        assert "implements no node" in session.skipped[0]


@pytest.mark.usefixtures("cuda_loads")
@pytest.mark.parametrize("kind", [RuntimeError, onnxruntime_pybind11_state.RuntimeException])
def test_a_provider_that_cannot_start_is_not_the_models_fault(
    double: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def create(*_: Any, **__: Any) -> Any:
        raise kind("no kernel image\nmore")

    monkeypatch.setattr(onnxruntime, "InferenceSession", create)
    with pytest.raises(ProviderError, match=r"cuda does not start: no kernel image \(pip install"):
        Session(double, ep="CUDAExecutionProvider")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"cdua": {}}, "unknown execution provider 'cdua' .did you mean cuda"),
        ({"cuda": {}}, "options for cuda, but the session runs on cpu"),
        ({"cpu": {"threads": 3}}, "there is no option 'threads'"),
    ],
)
def test_options_that_would_be_ignored_are_refused(double: Path, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Session(double, ep="cpu", options=options)


def test_the_session_has_no_task_without_a_bundle(double: Path) -> None:
    session = Session(double)
    for ask in (lambda: session.task, lambda: session.generate("x")):
        with pytest.raises(UsageError, match="no task is described"):
            ask()
