"""Decoders for the tests of generation: one that says what it is told, and one without an ONNX Runtime session."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeai.runtime.engine import Engine
from edgeai.runtime.testing import FakeEngine
from edgeai.spec import Array, Axis, Feed, Signature, TensorSpec

Engines = dict[str, Engine]  # by how the cache is kept
KINDS = ("handed", "swapping", "in place")


class Plain:
    """An engine that is no session: its caches are handed on as arrays."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.signature = engine.signature

    def run(self, feed: Feed) -> dict[str, Array]:
        return self._engine.run(feed)

    def close(self) -> None:
        self._engine.close()


def scripted(*texts: list[int], vocabulary: int = 6, prompt: int = 1) -> FakeEngine:
    """A decoder that continues row i by `texts[i]`, after a prompt of `prompt` tokens; its cache holds the ids seen."""
    cache = ("batch", 1, "past", 1)
    signature = Signature(
        (
            TensorSpec("input_ids", "int64", ("batch", "seq")),
            TensorSpec("attention_mask", "int64", ("batch", "total")),
            TensorSpec("past_key_values.0.key", "float16", cache),
            TensorSpec("past_key_values.0.value", "float16", cache),
        ),
        tuple(TensorSpec(name, "float16", ()) for name in ("logits", "present.0.key", "present.0.value")),
        (Axis("batch", 1, 4),),
    )

    def answer(feed: Any) -> dict[str, np.ndarray]:
        ids, past = feed["input_ids"], feed["past_key_values.0.key"]
        present = np.concatenate([past, ids[:, None, :, None].astype(np.float16)], axis=2)
        assert feed["attention_mask"].shape == (len(ids), present.shape[2])
        logits = np.zeros((*ids.shape, vocabulary), np.float16)
        for row, said in enumerate(texts):
            for column in range(ids.shape[1]):
                place = past.shape[2] + column + 1 - prompt
                logits[row, column, said[place] if 0 <= place < len(said) else 0] = 1
        return {"logits": logits, "present.0.key": present, "present.0.value": present}

    return FakeEngine(signature, answer)
