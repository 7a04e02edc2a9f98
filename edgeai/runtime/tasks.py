"""What a bundle is for, as a function: from a text, an image or an array to a typed prediction.

The bundle's `task` describes it: {"task": name, "labels": [...], "preprocessing": {...}}. A key that this file does
not know is refused, because ignoring it would give other inputs than the model was trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgeai.bundle import Bundle
from edgeai.errors import InputError, IntegrityError, UsageError
from edgeai.runtime.engine import Engine
from edgeai.runtime.images import ImagePreparation, load_array
from edgeai.runtime.options import nearest
from edgeai.runtime.padded import in_groups
from edgeai.runtime.text_generation import TextGeneration as TextGeneration
from edgeai.runtime.tokenizer import Tokenizer
from edgeai.spec import Array, TensorSpec

_TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class Prediction:
    """The most likely class; `score` is its probability, 0..1."""

    label: str
    score: float
    index: int


class Task(Protocol):
    """`name` is the task's name in the bundle."""

    @property
    def name(self) -> str: ...

    def __call__(self, item: Any) -> Any:
        """The answer for one text, image or array. Raises InputError if it is not one that the task takes."""

    def batch(self, items: Sequence[Any]) -> list[Any]:
        """The answers for several, in order, from one run of the model where it can."""

    def map(self, items: Iterable[Any], *, batch: int = 16) -> Iterator[Any]:
        """The answers for any number, in order: `batch` are taken at a time, when the first of them is asked for."""


@dataclass(frozen=True)
class Classification:
    """Arrays or images to classes: `prepare` makes one row (without batch axis) of one item."""

    name: str
    engine: Engine
    labels: tuple[str, ...]
    input: TensorSpec
    prepare: Callable[[Array | str | Path], Array]

    def __call__(self, item: Array | str | Path) -> Prediction:
        return self.batch([item])[0]

    def batch(self, items: Sequence[Array | str | Path]) -> list[Prediction]:
        _refuse_none(items)
        rows = np.stack([self.prepare(item) for item in items])
        return _predictions(self.engine, {self.input.name: rows}, self.labels)

    def map(self, items: Iterable[Array | str | Path], *, batch: int = 16) -> Iterator[Prediction]:
        return (answer for group in in_groups(items, batch) for answer in self.batch(group))


@dataclass(frozen=True)
class TextClassification:
    """Texts to classes: each is cut and padded to `max_length` tokens, as in training."""

    name: str
    engine: Engine
    labels: tuple[str, ...]
    tokenizer: Tokenizer
    max_length: int
    padding_id: int

    def __call__(self, item: str) -> Prediction:
        return self.batch([item])[0]

    def batch(self, items: Sequence[str]) -> list[Prediction]:
        _refuse_none(items)
        feed = {name: np.zeros((len(items), self.max_length), np.int64) for name in _TEXT_INPUTS}
        feed["input_ids"].fill(self.padding_id)
        for row, text in enumerate(items):
            encoding = self.tokenizer.encode_pair(text, max_length=self.max_length)
            length = len(encoding.ids)
            feed["input_ids"][row, :length] = encoding.ids
            feed["attention_mask"][row, :length] = 1
            feed["token_type_ids"][row, :length] = encoding.type_ids
        return _predictions(self.engine, {name: feed[name] for name in self.engine.signature.input_names}, self.labels)

    def map(self, items: Iterable[str], *, batch: int = 16) -> Iterator[Prediction]:
        return (answer for group in in_groups(items, batch) for answer in self.batch(group))


def open_task(engine: Engine, bundle: Bundle) -> Task:
    """The task that the bundle describes, answered by `engine`.

    Raises UsageError for a task that this edgeai does not know, IntegrityError for a description that is malformed or
    does not fit the model.
    """
    name = str(bundle.task.get("task"))
    if name not in _OPENERS:
        hint = nearest(name, _OPENERS)
        raise UsageError(f"{bundle.path}: the task {name!r} is not known here; use run() with arrays", hint=hint)
    try:
        return _OPENERS[name](engine, bundle, dict(bundle.task.get("preprocessing") or {}))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise IntegrityError(f"{bundle.path}: the description of its task cannot be used ({reason})") from error


def text_generation(task: Task) -> TextGeneration:
    """`task` as what it is. Raises UsageError if it is for anything else."""
    if not isinstance(task, TextGeneration):
        raise UsageError(f"the bundle is for {task.name}, not for text-generation")
    return task


def _open_text_classification(engine: Engine, bundle: Bundle, preprocessing: dict[str, Any]) -> Task:
    _refuse_unknown(preprocessing, "tokenizer", "max_length")
    inputs = engine.signature.input_names
    if "input_ids" not in inputs or not set(inputs) <= set(_TEXT_INPUTS):
        raise ValueError(f"the model takes {', '.join(inputs)}, not {', '.join(_TEXT_INPUTS)}")
    tokenizer = Tokenizer.load(bundle.file(preprocessing["tokenizer"]))
    padding_id = tokenizer.token_to_id("[PAD]")
    if padding_id is None:
        raise ValueError("the tokenizer has no [PAD] token")
    return TextClassification(
        bundle.task["task"], engine, _labels(engine, bundle), tokenizer, _count(preprocessing, "max_length"), padding_id
    )


def _open_text_generation(engine: Engine, bundle: Bundle, preprocessing: dict[str, Any]) -> Task:
    _refuse_unknown(preprocessing, "tokenizer", "max_positions", "stop_tokens", "layers", "heads", "head_size")
    tokenizer = Tokenizer.load(bundle.file(preprocessing["tokenizer"]))
    limit = _count(preprocessing, "max_positions") if "max_positions" in preprocessing else None
    if (named := preprocessing.get("stop_tokens")) is None:
        named = [_END_OF_TEXT] if tokenizer.token_to_id(_END_OF_TEXT) is not None else []
    stop_ids = [tokenizer.token_to_id(token) for token in named]
    if None in stop_ids:
        raise ValueError("a stop token is not in the tokenizer")
    return TextGeneration(bundle.task["task"], engine, tokenizer, limit, tuple(i for i in stop_ids if i is not None))


def _open_image_classification(engine: Engine, bundle: Bundle, preprocessing: dict[str, Any]) -> Task:
    spec = _single_input(engine, preprocessing.pop("input", None))
    preparation = ImagePreparation.of(preprocessing)

    def prepare(item: Array | str | Path) -> Array:
        return preparation(preparation.read(item)).astype(spec.dtype)

    return Classification(bundle.task["task"], engine, _labels(engine, bundle), spec, prepare)


def _open_classification(engine: Engine, bundle: Bundle, preprocessing: dict[str, Any]) -> Task:
    spec = _single_input(engine, preprocessing.pop("input", None))
    _refuse_unknown(preprocessing, "shape", "scale")
    shape, scale = tuple(map(int, preprocessing["shape"])), float(preprocessing.get("scale", 1.0))

    def prepare(item: Array | str | Path) -> Array:
        array = load_array(item)
        if array.dtype.kind not in "uif" or array.size != np.prod(shape):
            raise InputError(f"expected {np.prod(shape)} numbers for shape {shape}, got {array.dtype}{array.shape}")
        return (array.reshape(shape) * scale).astype(spec.dtype)

    return Classification(bundle.task["task"], engine, _labels(engine, bundle), spec, prepare)


_OPENERS: Mapping[str, Callable[[Engine, Bundle, dict[str, Any]], Task]] = {
    "text-classification": _open_text_classification,
    "image-classification": _open_image_classification,
    "classification": _open_classification,
    "text-generation": _open_text_generation,
}


def _refuse_unknown(preprocessing: Mapping[str, Any], *known: str) -> None:
    if unknown := sorted(preprocessing.keys() - set(known)):
        raise ValueError(f"preprocessing {unknown[0]!r} is not known here")


def _count(preprocessing: Mapping[str, Any], name: str) -> int:
    value = preprocessing[name]
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} = {value!r} is not a positive whole number")
    return value


def _labels(engine: Engine, bundle: Bundle) -> tuple[str, ...]:
    labels = tuple(map(str, bundle.task["labels"]))
    output = engine.signature.outputs[0]
    if len(output.shape) != 2 or output.shape[1] not in (len(labels), str(output.shape[1])):
        raise ValueError(f"{len(labels)} labels, but the model's first output is {output}")
    return labels


def _single_input(engine: Engine, name: str | None) -> TensorSpec:
    inputs = engine.signature.inputs
    if len(inputs) != 1 or name not in (None, inputs[0].name):
        raise ValueError(f"the model takes {', '.join(map(str, inputs))}, not one array called {name or 'anything'}")
    return inputs[0]


def _refuse_none(items: Sequence[Any]) -> None:
    if not len(items):
        raise InputError("nothing to classify: the batch is empty")


def _predictions(engine: Engine, feed: dict[str, Array], labels: tuple[str, ...]) -> list[Prediction]:
    """From the first output, logits (N, C).

    A model with a fixed batch axis is run as often as that takes; the last batch repeats its last row to be full.
    """
    count, axes = len(next(iter(feed.values()))), engine.signature.inputs[0].shape
    step = next((axis for axis in axes[:1] if isinstance(axis, int) and axis), count)
    batches = [np.minimum(np.arange(start, start + step), count - 1) for start in range(0, count, step)]
    answers = [engine.run({name: array[rows] for name, array in feed.items()}) for rows in batches]
    logits = np.concatenate([answer[engine.signature.outputs[0].name] for answer in answers])[:count].astype(np.float64)
    if logits.shape[1:] != (len(labels),):
        raise InputError(f"the model gave logits {logits.shape} for {len(labels)} labels")
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    scores = weights / weights.sum(-1, keepdims=True)  # (N, C)
    return [Prediction(labels[index := int(row.argmax())], float(row[index]), index) for row in scores]
