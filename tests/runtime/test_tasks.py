"""What a bundle is for, as a function: batches and generators in, typed predictions out."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeai import cli
from edgeai.bundle import pack
from edgeai.errors import InputError, UsageError
from edgeai.modelfile import open_artifact
from edgeai.runtime import Prediction
from edgeai.runtime import text_generation as generation_task
from edgeai.runtime.loading import load
from edgeai.runtime.sampling import Sampling
from edgeai.runtime.session import Session
from edgeai.runtime.speculation import PromptLookup
from edgeai.runtime.tasks import TextGeneration, text_generation

from .decoders import Engines

CLASSIFIER = "c (float[batch,3] x) => (float[batch,3] logits) { logits = Identity(x) }"
IMAGES = (
    "c (float[batch,3,2,2] image) => (float[batch,3] logits) { logits = ReduceMax<axes = [2, 3], keepdims = 0>(image) }"
)
LABELS = ["zero", "one", "two"]


def bundle(out: Path, model: Path, description: dict[str, Any], **extras: Path) -> Path:
    files = {name.replace("_", "."): path for name, path in extras.items()}
    return pack(open_artifact(model), out, task=description, extras=files).path


@pytest.fixture
def classifier(tmp_path: Path, model: Callable[..., Path]) -> Iterator[Session]:
    description = {"task": "classification", "labels": LABELS, "preprocessing": {"shape": [3]}}
    with load(bundle(tmp_path / "m.bundle", model(CLASSIFIER), description)) as session:
        yield session


@pytest.fixture
def writer(tmp_path: Path, decoder: Path, byte_tokenizer: Path) -> Iterator[Session]:
    description = {"task": "text-generation", "preprocessing": {"tokenizer": "tokenizer.json", "max_positions": 24}}
    with load(bundle(tmp_path / "g.bundle", decoder, description, tokenizer_json=byte_tokenizer)) as session:
        yield session


def test_any_number_of_items_is_answered_a_batch_at_a_time(classifier: Session) -> None:
    taken = list[int]()

    def items() -> Iterator[np.ndarray]:
        for number in itertools.count():
            taken.append(number)
            yield np.eye(3, dtype=np.float32)[number % 3] * 5

    answers = list(itertools.islice(classifier.task.map(items(), batch=4), 6))
    assert [answer.label for answer in answers] == ["zero", "one", "two"] * 2
    assert all(isinstance(answer, Prediction) and answer.score > 0.9 for answer in answers)
    assert len(taken) == 8
    assert list(classifier.task.map([])) == []
    with pytest.raises(UsageError, match="batch = 0"):
        classifier.task.map([], batch=0)


def test_a_batch_answers_as_single_items_do(classifier: Session) -> None:
    rows = list(np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32))
    assert classifier.task.batch(rows) == [classifier.task(row) for row in rows] == list(classifier.task.map(rows))


def test_a_fixed_batch_axis_is_run_as_often_as_it_takes(tmp_path: Path, model: Callable[..., Path]) -> None:
    description = {"task": "classification", "labels": LABELS, "preprocessing": {"shape": [3]}}
    one = model("c (float[1,3] x) => (float[1,3] logits) { logits = Identity(x) }")
    with load(bundle(tmp_path / "m.bundle", one, description)) as session:
        rows = list(np.eye(3, dtype=np.float32))
        assert [answer.label for answer in session.task.batch(rows)] == LABELS
        assert [answer.label for answer in session.task.map(rows)] == LABELS


def test_a_last_batch_that_is_not_full_is_filled(tmp_path: Path, model: Callable[..., Path]) -> None:
    description = {"task": "classification", "labels": LABELS, "preprocessing": {"shape": [3]}}
    two = model("c (float[2,3] x) => (float[2,3] logits) { logits = Identity(x) }")
    with load(bundle(tmp_path / "m.bundle", two, description)) as session:
        rows = list(np.eye(3, dtype=np.float32))
        assert [answer.label for answer in session.task.batch(rows)] == LABELS
        assert session.task(rows[1]).label == LABELS[1]


def test_pictures_are_classified(tmp_path: Path, model: Callable[..., Path]) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    prepared = {"size": [2, 2], "resize": 3, "resample": "bilinear", "channels": 3, "scale": 1 / 255}
    description = {"task": "image-classification", "labels": LABELS, "preprocessing": prepared}
    pixels = np.zeros((9, 6, 3), np.uint8)
    pixels[..., 1] = 200
    for name in ("a.png", "b.bmp", "c.jpg"):
        image.fromarray(pixels).save(tmp_path / name)
    with load(bundle(tmp_path / "m.bundle", model(IMAGES), description)) as session:
        names = [tmp_path / "a.png", str(tmp_path / "b.bmp"), tmp_path / "c.jpg"]
        assert [answer.label for answer in session.task.map([*names, pixels])] == ["one"] * 4


def test_texts_of_a_batch_are_continued_as_each_alone(writer: Session) -> None:
    prompts = ["the", "a much longer one", "the th"]
    task = text_generation(writer.task)
    alone = ["".join(task.stream(prompt, max_new_tokens=6)) for prompt in prompts]
    assert task.batch(prompts, max_new_tokens=6) == alone
    assert task.batch([]) == []
    assert list(task.map(iter(prompts), batch=2)) == task.batch(prompts)
    cut = alone[0][2]
    assert task.batch(prompts[:1], max_new_tokens=6, stop=[cut]) == [alone[0][: alone[0].index(cut)]]
    hot = Sampling(3.0, seed=2)
    assert task.batch(["the"], max_new_tokens=6, sampling=hot) == [
        "".join(task.stream("the", max_new_tokens=6, temperature=3.0, seed=2))
    ]


def test_what_a_text_draws_follows_from_its_place_and_not_from_what_is_beside_it(
    writer: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, hot = text_generation(writer.task), Sampling(3.0, seed=2)
    together = task.batch(["the"] * 3, max_new_tokens=6, sampling=hot)
    assert len(set(together)) == 3
    # Beside a prompt that fills the context each is continued alone.
    assert task.batch(["the"] * 3 + ["x" * 20], max_new_tokens=6, sampling=hot)[:3] == together
    monkeypatch.setattr(generation_task, "widest_batch", lambda engine: 2)
    assert task.batch(["the"] * 3, max_new_tokens=6, sampling=hot) == together


def test_a_text_that_ends_at_once_is_empty(tmp_path: Path, decoder: Path, byte_tokenizer: Path) -> None:
    with Session(decoder) as session:
        first = next(iter(TextGeneration("t", session, _tokenizer(byte_tokenizer), None, ()).stream("th")))
        (token, *_) = _tokenizer(byte_tokenizer).encode(first)
        task = TextGeneration("t", session, _tokenizer(byte_tokenizer), None, (token,))
        assert (task("th"), task.batch(["th", "th"])) == ("", ["", ""])


def _tokenizer(path: Path) -> Any:
    from edgeai.runtime.tokenizer import Tokenizer

    return Tokenizer.load(path)


def test_the_options_reach_the_loop(writer: Session) -> None:
    for stream in (text_generation(writer.task).stream, writer.generate):
        plain = "".join(stream("the the the", max_new_tokens=9))
        assert "".join(stream("the the the", max_new_tokens=9, lookup=PromptLookup(3, 2, 1))) == plain
        assert "".join(stream("the the the", max_new_tokens=9, repetition_penalty=50.0)) != plain
        assert "".join(stream("the the the", max_new_tokens=9, stop=[plain[0]])) == ""
        assert list(stream("the", cancelled=lambda: True)) == []


def test_a_conversation_computes_what_is_new(writer: Session) -> None:
    task = text_generation(writer.task)
    conversation = task.conversation()
    first = "".join(conversation.stream("a b", max_new_tokens=4))
    assert (first, conversation.reused) == ("".join(task.stream("a b", max_new_tokens=4)), 0)
    second = "".join(conversation.stream("a bcd", max_new_tokens=4))
    assert (second, conversation.reused) == ("".join(task.stream("a bcd", max_new_tokens=4)), 3)
    endless = dataclasses.replace(task, max_positions=None)
    with pytest.raises(UsageError, match="neither bundle nor model says"):
        endless.conversation()
    with pytest.raises(InputError, match="no room in a context of 24"):
        conversation.stream("x" * 24)


def test_the_context_is_the_signature_s_where_the_bundle_says_nothing(engines: Engines, byte_tokenizer: Path) -> None:
    tokenizer = dataclasses.replace(_tokenizer(byte_tokenizer), names=dict.fromkeys(range(512), "a"))
    task = TextGeneration("t", engines["in place"], tokenizer, None, ())
    with pytest.raises(InputError, match="no room in a context of 32"):
        task.conversation().stream("x" * 32)
    assert task.batch(["ab", "cde"], max_new_tokens=2) == ["aa", "aa"], "one after the other: it takes a batch of one"


def test_a_bundle_for_something_else_is_refused(classifier: Session) -> None:
    with pytest.raises(UsageError, match="for classification, not for text-generation"):
        text_generation(classifier.task)


def test_the_command_line_has_the_same_options(writer: Session, capsys: pytest.CaptureFixture[str]) -> None:
    assert writer.bundle is not None
    path = str(writer.bundle.path)

    def command(*options: str, code: int = 0) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main(["generate", path, "--prompt", "the the", "--max-new-tokens", "9", *options])
        captured = capsys.readouterr()
        assert stop.value.code == code, captured.err
        return captured.out.removesuffix("\n") if code == 0 else captured.err

    task = text_generation(writer.task)
    plain = "".join(task.stream("the the", max_new_tokens=9))
    assert command() == command("--lookup", "3") == plain
    assert command("--stop", plain[2]) == plain[: plain.index(plain[2])]
    penalized = "".join(task.stream("the the", max_new_tokens=9, repetition_penalty=50.0))
    assert command("--repetition-penalty", "50") == penalized != plain
    assert "must be a list of texts" in command("--stop", "", code=2)
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", path, "--text", "the"])
    assert stop.value.code == 2
    assert "continues texts (edgeai generate)" in capsys.readouterr().err
