"""From a file or a bundle to a session that answers, on the device's own terms."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from edgeai.artifact import Artifact
from edgeai.bundle import Golden, open_bundle, pack
from edgeai.errors import EdgeAIError, InputError, IntegrityError, ModelFormatError, UsageError
from edgeai.machine import machine
from edgeai.runtime import golden as golden_module
from edgeai.runtime import loading
from edgeai.runtime.golden import relative_error, verify_bundle
from edgeai.runtime.loading import load
from edgeai.runtime.pool import SessionPool
from edgeai.runtime.providers import availability
from edgeai.runtime.session import Session
from edgeai.runtime.settings import SessionSettings
from edgeai.runtime.tasks import Prediction
from edgeai.samples import Samples

Write = Callable[..., Path]
DIGITS = ("zero", "one", "two")
CLASSIFIER = "c (float[batch,3] x) => (float[batch,3] logits) { logits = Identity(x) }"
IMAGES = "c (float[batch,1,1,3] image) => (float[batch,3] logits) { logits = Flatten(image) }"
# logits = (number of seen tokens, first id, sum of segments)
TEXTS = """t (int64[batch,seq] input_ids, int64[batch,seq] attention_mask, int64[batch,seq] token_type_ids)
    => (float[batch,3] logits) <int64[1] last = {1}, int64[1] zero = {0}> {
    seen = ReduceSum(attention_mask, last) first = Gather<axis = 1>(input_ids, zero)
    segments = ReduceSum(token_type_ids, last) all = Concat<axis = 1>(seen, first, segments)
    logits = Cast<to = 1>(all) }"""


def bundle(path: Path, model: Path, **more: Any) -> Path:
    pack(Artifact(model), path, **more).close()
    return path


def wordpiece(path: Path) -> Path:
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "good": 4, "bad": 5}
    data = {
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocabulary,
        },
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    }
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize("name", ["m.bundle", "m.zip"])
def test_a_bundle_runs_with_its_own_settings(tmp_path: Path, double: Path, name: str) -> None:
    path = bundle(tmp_path / name, double, settings=SessionSettings(threads=1, spinning=False).to_json())
    with load(path) as session:
        assert session.settings == SessionSettings(threads=1, spinning=False)
        assert session.run({"x": np.ones((1, 3), np.float32)})["y"].tolist() == [[2, 2, 2]]
        inside = session.path.parent
    assert inside.exists() == (name == "m.bundle")
    with load(path, settings={"threads": 2}) as session:
        assert session.settings.threads == 2


def test_a_bare_model_runs(double: Path) -> None:
    with load(str(double), ep=("cpu",), settings=SessionSettings(threads=1)) as session:
        assert session.bundle is None


def test_the_provider_is_looked_for_once(double: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()
    monkeypatch.setattr(availability, "runs", lambda name: asked.append(name) or (None if name == "cpu" else "no"))
    load(double, ep="auto").close()
    assert len(asked) == len(set(asked)) > 1


def test_settings_that_no_session_knows_make_the_bundle_unusable(tmp_path: Path, double: Path) -> None:
    path = bundle(tmp_path / "m.zip", double, settings={"thread": 1})
    with pytest.raises(IntegrityError, match="session settings cannot be used.*no option 'thread'"):
        load(path)


def test_a_model_that_does_not_open_leaves_nothing_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(b"\x08\x08")  # a protobuf message without a graph
    path = bundle(tmp_path / "m.zip", model)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ModelFormatError, match="cannot open it"):
        load(path)
    assert sorted(tmp_path.iterdir()) == before


def test_a_damaged_bundle_never_reaches_onnxruntime(
    tmp_path: Path, double: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bundle(tmp_path / "m.bundle", double)
    data = bytearray((path / "model.onnx").read_bytes())
    data[-1] ^= 1
    (path / "model.onnx").write_bytes(data)
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(IntegrityError, match=r"model\.onnx is not what the manifest says"):
        load(path)


def task(name: str, **preprocessing: Any) -> dict[str, Any]:
    return {"task": name, "labels": list(DIGITS), "preprocessing": preprocessing}


def test_arrays_are_classified(tmp_path: Path, model: Write) -> None:
    path = bundle(tmp_path / "m.bundle", model(CLASSIFIER), task=task("classification", shape=[3], scale=0.5))
    with load(path) as session:
        answer = session.task(np.array([[0], [4], [2]]))
        weights = np.exp([0, 2, 1])
        assert answer == Prediction("one", pytest.approx(weights[1] / weights.sum()), 1)
        assert [p.label for p in session.task.batch([np.array([9, 0, 0]), np.array([0, 0, 9])])] == ["zero", "two"]
        np.save(tmp_path / "x.npy", np.array([0, 0, 8], np.uint8))
        assert session.task(tmp_path / "x.npy").label == "two"
        for bad, reason in (
            (np.zeros(4), r"expected 3 numbers .* got float64\(4,\)"),
            (np.array(["a"] * 3), "got <U1"),
        ):
            with pytest.raises(InputError, match=reason):
                session.task(bad)
        with pytest.raises(InputError, match="the batch is empty"):
            session.task.batch([])
        with pytest.raises(UsageError, match="for classification, not for text-generation"):
            session.generate("a")


def test_images_are_classified(tmp_path: Path, model: Write) -> None:
    description = task("image-classification", size=[1, 3], channels=1, scale=1.0, input="image")
    with load(bundle(tmp_path / "m.bundle", model(IMAGES), task=description)) as session:
        assert session.task(np.array([[1, 2, 9]], np.uint8)).label == "two"


def test_texts_are_classified_with_padding_and_truncation(tmp_path: Path, model: Write) -> None:
    tokenizer = wordpiece(tmp_path / "t.json")
    description = task("text-classification", tokenizer="tokenizer.json", max_length=3)
    path = bundle(tmp_path / "m.zip", model(TEXTS), task=description, extras={"tokenizer.json": tokenizer})
    with load(path) as session:
        assert session.task("Bad!").label == "one"  # its first id, 5, beats two seen tokens
        seen: list[Mapping[str, Any]] = []
        run = session.run

        class Spy:
            signature = session.signature

            def run(self, feed: Any) -> Any:
                seen.append(feed)
                return run(feed)

        object.__setattr__(session.task, "engine", Spy())
        assert len(session.task.batch(["good", "bad bad bad bad", ""])) == 3
    assert seen[0]["input_ids"].tolist() == [[4, 0, 0], [5, 5, 5], [0, 0, 0]]
    assert seen[0]["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1], [0, 0, 0]]


def test_text_is_generated(tmp_path: Path, decoder: Path, byte_tokenizer: Path) -> None:
    description = {"task": "text-generation", "preprocessing": {"tokenizer": "tokenizer.json", "max_positions": 8}}
    path = bundle(tmp_path / "m.bundle", decoder, task=description, extras={"tokenizer.json": byte_tokenizer})
    with load(path) as session:
        pieces = list(session.generate("the", max_new_tokens=20, temperature=3.0, seed=5, top_k=50))
        assert pieces == list(session.generate("the", max_new_tokens=20, temperature=3.0, seed=5, top_k=50))
        assert 1 <= len("".join(pieces)) <= 7  # "the" is two tokens of eight
        assert session.task("the") == "".join(session.generate("the"))
        assert session.task.batch(["the"]) == [session.task("the")]
        assert session.task.stop_ids == (257,)
        with pytest.raises(UsageError, match="top_k = 0"):
            session.generate("the", temperature=1.0, top_k=0)


@pytest.mark.parametrize(
    ("description", "error", "reason"),
    [
        (task("classificaton", shape=[3]), UsageError, "'classificaton' is not known here.* mean classification"),
        (task("classification"), IntegrityError, "no 'shape'"),
        (task("classification", shape=[3], blur=2), IntegrityError, "'blur' is not known"),
        (task("classification", shape=3), IntegrityError, "not iterable"),
        (task("classification", shape=[3], input="z"), IntegrityError, "not one array called z"),
        ({**task("classification", shape=[3]), "labels": ["a"]}, IntegrityError, "1 labels, but the model's first"),
        (task("text-classification", tokenizer="tokenizer.json", max_length=3), IntegrityError, "the model takes x"),
        (task("text-generation", tokenizer="no.json"), IntegrityError, "no.json is not in the bundle"),
        (task("text-generation", tokenizer="tokenizer.json", max_positions=0), IntegrityError, "max_positions = 0"),
        (task("text-generation", tokenizer="tokenizer.json", stop_tokens=["?!"]), IntegrityError, "a stop token"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(
    tmp_path: Path, model: Write, byte_tokenizer: Path, description: Any, error: type[EdgeAIError], reason: str
) -> None:
    extras = {"tokenizer.json": byte_tokenizer}
    path = bundle(tmp_path / "m.bundle", model(CLASSIFIER), task=description, extras=extras)
    with load(path) as session, pytest.raises(error, match=reason):
        _ = session.task


def test_a_tokenizer_without_padding_cannot_classify(tmp_path: Path, model: Write, byte_tokenizer: Path) -> None:
    description = task("text-classification", tokenizer="tokenizer.json", max_length=3)
    path = bundle(tmp_path / "m.bundle", model(TEXTS), task=description, extras={"tokenizer.json": byte_tokenizer})
    with load(path) as session, pytest.raises(IntegrityError, match=r"has no \[PAD\] token"):
        _ = session.task


def test_labels_must_fit_what_the_model_gives(tmp_path: Path, model: Write) -> None:
    graph = "c (float[batch,n] x) => (float[batch,n] logits) { logits = Identity(x) }"
    path = bundle(tmp_path / "m.bundle", model(graph), task=task("classification", shape=[2]))
    with load(path) as session, pytest.raises(InputError, match=r"logits \(1, 2\) for 3 labels"):
        session.task(np.zeros(2))


def test_golden_vectors_prove_a_bundle(tmp_path: Path, double: Path, golden_double: Golden) -> None:
    here = {"architecture": machine().architecture, "features": list(machine().features), "provider": "cpu"}
    path = bundle(tmp_path / "m.bundle", double, golden=golden_double, proven_on=here)
    report = verify_bundle(path, ep="cpu")
    assert (report.verdict, report.exit_code, report.vectors, report.findings) == ("verified", 0, 4, ())
    assert report.errors == {"y": 0.0}
    assert "verified, 4 golden vectors on cpu, largest relative error 0 of 0.0001" in report.summary


def test_wrong_answers_fail(tmp_path: Path, model: Write, golden_double: Golden) -> None:
    wrong = model("d (float[batch,3] x) => (float[batch,3] y) <float k = {2.1}> { y = Mul(x, k) }")
    report = verify_bundle(bundle(tmp_path / "m.zip", wrong, golden=golden_double))
    assert (report.verdict, report.exit_code) == ("failed", 1)
    assert report.errors["y"] == pytest.approx(0.05, rel=0.01)
    assert "output y: relative error 0.05, allowed 0.0001" in report.findings[0]


def test_an_output_that_is_gone_fails(tmp_path: Path, model: Write, golden_double: Golden) -> None:
    other = model("d (float[batch,3] x) => (float[batch,3] z) { z = Add(x, x) }")
    report = verify_bundle(bundle(tmp_path / "m.bundle", other, golden=golden_double))
    assert report.verdict == "failed"
    assert report.errors == {"y": float("inf"), "z": float("inf")}


def test_without_golden_vectors_nothing_is_proven(tmp_path: Path, double: Path) -> None:
    proven = {"architecture": "abacus", "features": ["beads"], "provider": "cuda"}
    report = verify_bundle(bundle(tmp_path / "m.bundle", double, proven_on=proven))
    assert (report.verdict, report.exit_code) == ("unverified", 4)
    assert "no golden vectors" in report.summary
    assert [finding.split(",")[0] for finding in report.findings] == [
        "proven with CPU features that are missing here: beads",
        "proven on architecture abacus",
        "proven on provider cuda",
    ]


def test_a_session_says_that_its_bundle_was_proven_on_another_kind_of_machine(tmp_path: Path, double: Path) -> None:
    here = {"architecture": machine().architecture, "features": list(machine().features), "provider": "cpu"}
    with load(bundle(tmp_path / "here.bundle", double, proven_on=here), ep="cpu") as session:
        assert session.notes == ()
    far = bundle(tmp_path / "far.bundle", double, proven_on=here | {"architecture": "abacus"})
    with load(far, ep="cpu") as session:
        assert session.notes == (f"proven on architecture abacus, here it is {machine().architecture}",)
    odd = {"architecture": None, "features": "all", "provider": ["cuda"]}
    with load(bundle(tmp_path / "odd.bundle", double, proven_on=odd), ep=["tensorrt", "cpu"]) as session:
        assert session.notes == (*session.skipped, "proven on provider ['cuda'], here it is cpu")
        assert len(session.skipped) == 1
    with load(double, ep="cpu") as session:
        assert session.notes == ()


@pytest.mark.parametrize(
    ("proven", "asked", "opened"),
    [
        ("cpu", "auto", ("cpu",)),
        ("openvino", "auto", ("openvino", "cpu")),
        ("cuda", "auto", "auto"),  # it does not run here
        (["cuda"], "auto", "auto"),
        (None, "auto", "auto"),
        ("openvino", "cpu", "cpu"),
    ],
)
def test_auto_is_the_provider_that_a_bundle_was_proven_on_where_that_runs(
    tmp_path: Path, double: Path, monkeypatch: pytest.MonkeyPatch, proven: object, asked: str, opened: object
) -> None:
    monkeypatch.setattr(loading, "runs", lambda name: None if name in ("cpu", "openvino") else "no device")
    monkeypatch.setattr(loading, "Session", lambda path, **how: SimpleNamespace(ep=how["ep"]))
    path = bundle(tmp_path / "m.bundle", double, proven_on={"provider": proven})
    assert load(path, ep=asked).ep == opened  # type: ignore[attr-defined]
    assert load(double, ep="auto").ep == "auto"  # type: ignore[attr-defined]


def test_a_bare_model_is_no_bundle(double: Path) -> None:
    with pytest.raises(InputError, match="a model, not a bundle"):
        verify_bundle(double)


@pytest.mark.parametrize(
    ("expected", "actual", "error"),
    [
        ([1.0, -4.0], [1.0, -3.0], 0.25),
        ([0.0], [0.0], 0.0),
        ([np.nan, np.inf, 2.0], [np.nan, np.inf, 1.0], 0.5),
        ([np.nan, 1.0], [1.0, 1.0], np.inf),
        ([1.0], [np.inf], np.inf),
        ([1.0], [[1.0]], np.inf),
        ([1.0], [1], np.inf),
        ([1, 2], [1, 4], 1.0),
        ([True], [False], 1.0),
        (["a"], ["a"], 0.0),
        (["a"], ["b"], np.inf),
        ([], [], 0.0),
    ],
)
def test_errors_are_relative_to_the_outputs_own_scale(expected: Any, actual: Any, error: float) -> None:
    assert relative_error(np.array(expected), np.array(actual)) == error


def test_the_verdict_of_nan_is_failed(tmp_path: Path, double: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.ones((1, 3), np.float32)
    golden = Golden(Samples.from_rows({"x": x}), Samples.from_rows({"y": 2 * x}))
    monkeypatch.setattr(golden_module, "relative_error", lambda *_: float("nan"))
    assert verify_bundle(bundle(tmp_path / "m.bundle", double, golden=golden)).verdict == "failed"


def test_an_open_bundle_is_not_checked_again_and_is_closed_with_the_session(tmp_path: Path, double: Path) -> None:
    opened = open_bundle(bundle(tmp_path / "m.zip", double))
    opened.path.unlink()  # whoever wanted to check it again could not
    with load(opened, ep="cpu") as session:
        assert session.run({"x": np.ones((1, 3), np.float32)})["y"].max() == 2
        assert opened.directory.exists()
    assert not opened.directory.exists()


def large(path: Path) -> Path:
    """A bundle whose model is hashed while it is opened."""
    text = "g (float[n,1536] x) => (float[n,1536] y) { y = MatMul(x, w) }"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((1536, 1536), np.float32), "w"))
    onnx.save(model, source := path.with_suffix(".onnx"))
    return bundle(path, source)


@pytest.mark.parametrize("place", ["in a weight", "in the graph"])
@pytest.mark.parametrize("opens", [load, SessionPool])
def test_damage_of_a_large_file_is_told_as_such_and_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opens: Callable[..., Any], place: str
) -> None:
    path = large(tmp_path / "large.bundle")
    monkeypatch.setattr("edgeai.bundle.usable_cores", lambda: 2)
    sessions: list[Session] = []
    opened = Session.__init__
    monkeypatch.setattr(Session, "__init__", lambda self, *a, **k: (opened(self, *a, **k), sessions.append(self))[0])
    with opens(path, ep="cpu") as session:
        assert session.run({"x": np.ones((1, 1536), np.float32)})["y"][0, 0] == 1536
    content = bytearray((path / "model.onnx").read_bytes())
    content[len(content) // 2 if place == "in a weight" else content.index(b"MatMul")] ^= 4
    (path / "model.onnx").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"large\.bundle: model\.onnx is not what the manifest says"):
        opens(path, ep="cpu")
    assert len(sessions) == (2 if place == "in a weight" else 1)
    for session in sessions:
        with pytest.raises(UsageError, match="closed"):
            session.run({"x": np.ones((1, 1536), np.float32)})
