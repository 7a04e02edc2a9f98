"""What a decoder is for: whole continuations, timed in turn, each in a process of its own."""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np

from edgeai import bench
from edgeai.progress import SILENT, Progress
from edgeai.runtime.generation import generate
from edgeai.runtime.kv_cache import IDS, Layout, context
from edgeai.runtime.loading import load
from edgeai.runtime.session import Session
from edgeai.runtime.settings import SessionSettings
from edgeai.samples import Samples
from edgeai.spec import Array, Axis, Feed, Signature, TensorSpec
from edgeai.tuning.candidates import Point
from edgeai.tuning.measuring import file_bytes
from edgeai.tuning.objective import Figures, figures, objective_of
from edgeai.tuning.timing import measured

_PROMPTS, _LONGEST, _NEW = 4, 128, 32
_TOKENS = "tokens"


@final
class Continuations:
    """A decoder as an engine whose one run is a whole text: `input_ids` int64 (1, prompt) -> `tokens` int64 (new,).

    The runtime's own loop, greedy, with a cache of its own for each text. Raises UsageError for a model that is no
    decoder, and what loading raises.
    """

    def __init__(self, path: str, *, settings: Mapping[str, Any], new: int) -> None:
        self._session: Session = load(path, ep="cpu", settings=SessionSettings.from_json(settings))
        Layout.of(self._session.signature)
        self._new = new
        self.providers = self._session.providers
        self.signature = Signature(
            (TensorSpec(IDS, "int64", (1, "prompt"), low=0),), (TensorSpec(_TOKENS, "int64", ("new",)),),
            (Axis("prompt"), Axis("new")),
        )  # fmt: skip

    def run(self, feed: Feed) -> dict[str, Array]:
        """Continue one text. Raises InputError for a prompt that leaves no room."""
        return {_TOKENS: np.array(list(generate(self._session, feed[IDS], max_new_tokens=self._new)), np.int64)}

    def close(self) -> None:
        self._session.close()


def one_text(samples: Samples) -> Samples:
    """`samples` for a batch of one: rows come singly anyway, of complete feeds without labels the first row stays."""
    if not samples.items or samples.labels is not None:
        return samples
    return Samples.from_feeds([{name: array[:1] for name, array in feed.items()} for feed in samples.feeds()])


def time_texts(
    points: Sequence[Point],
    paths: Mapping[str, Path],
    samples: Samples,
    signature: Signature,
    workload: bench.Workload,
    *,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Figures:
    """Figures of the second of two `points`, `latency` being the time of a text over the first's with its interval.

    Prompts are the beginnings of `samples`. Raises what `edgeai.bench.measure` raises.
    """
    room = context(signature) or _LONGEST + _NEW
    longest, new = (max(1, min(most, room // 2)) for most in (_LONGEST, _NEW))
    starts = [feed[IDS][:1, :longest] for feed in itertools.islice(samples.feeds(), _PROMPTS)]
    prompts = [{IDS: ids} for ids in starts if ids.size] or [{IDS: np.zeros((1, 1), np.int64)}]
    plan = dataclasses.replace(workload, batch=1, warmup_window=2, discarded_runs=1)  # one run is many of the model
    subjects = [
        bench.Subject(
            point.name, f"{__name__}:{Continuations.__name__}",
            {"path": str(paths[point.plan.name].resolve()), "settings": point.settings.to_json(), "new": new},
            size_bytes=file_bytes(paths[point.plan.name]),
        )
        for point in points
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="edgeai-") as name:
        inputs = Path(name, "prompts.npz")
        Samples.from_feeds(prompts).save(inputs)
        report = measured(subjects, inputs, plan, seed=seed, progress=progress)
    return figures(report, objective_of("latency"), effort=1.0, seed=seed)[points[1].name]
