"""`edgeai debug A B`: where in the graph a rewritten or quantized model leaves the one that it was made from.

The signal-to-quantization-noise ratio of a tensor is 10 log10(sum a^2 / sum (a - b)^2), in decibels: 40 is very good,
20 is a relative distance of 0.1, 0 means that nothing of the signal is left.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.comparison import difference
from edgeai.errors import InputError, UsageError
from edgeai.probing import probe_feeds
from edgeai.progress import SILENT, Progress
from edgeai.quantization.sessions import open_session
from edgeai.samples import Samples
from edgeai.spec import Array, Feed, Signature
from edgeai.storage import atomic_text
from edgeai.verification import sample_batch

# Every tensor that is watched is held for one feed, and keeps ONNX Runtime from fusing what surrounds it.
_WATCHED = 16
_FEEDS = 16
BEST_DB = 150.0  # what equal tensors are shown as: float32 has no more


@dataclass(frozen=True)
class TensorNoise:
    """One tensor that both models have. `lost_db` is how much worse it is than the worst of what its node reads."""

    name: str
    op_type: str
    shape: tuple[int, ...]
    sqnr_db: float
    lost_db: float


@dataclass(frozen=True)
class Noise:
    """`tensors` in graph order; `outputs` are those of the models as they ship, with every fusion.

    An output that is far worse there than among `tensors` suffers from the fused kernels: integer sums that saturate.
    """

    reference: Path
    candidate: Path
    feeds: int
    tensors: tuple[TensorNoise, ...]
    outputs: tuple[TensorNoise, ...]

    def worst(self, count: int = 10) -> list[TensorNoise]:
        """Where most is lost, the largest loss first."""
        return sorted(self.tensors, key=lambda tensor: -tensor.lost_db)[:count]


def debug(
    reference: str | Path,
    candidate: str | Path,
    samples: Samples | None = None,
    *,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Noise:
    """Compare every float tensor that both ONNX files name alike, on samples or on generated feeds.

    Raises UsageError if they share no tensor, InputError if the inputs of the two differ or no feed is taken.
    """
    left, right = modelfile.load(reference), modelfile.load(candidate)
    signature = modelfile.open_artifact(reference).signature
    assert signature is not None  # open_artifact reads it off the graph where none is stamped
    if signature.input_names != modelfile.signature_of(right).input_names:
        raise InputError(f"{candidate} takes other inputs than {reference}")
    feeds = _feeds(signature, samples, seed)
    shared = _shared(left, right)
    if not shared:
        raise UsageError(f"{candidate} has no tensor by a name of {reference}", hint="compare a file with its source")
    with tempfile.TemporaryDirectory(prefix="edgeai-debug-") as name:
        meter = _Meter(left, right, Path(name))
        outputs = meter.measure([str(value.name) for value in left.graph.outputs], feeds)
        found: dict[str, tuple[float, tuple[int, ...]]] = {}
        with progress.task("tensors", len(shared)) as advance:
            for names in _groups(shared):
                found |= meter.measure(names, feeds)
                advance(len(names))
    return Noise(Path(reference), Path(candidate), len(feeds), tuple(_rows(left, found)), tuple(_rows(left, outputs)))


def _groups(names: list[str]) -> list[list[str]]:
    return [names[start : start + _WATCHED] for start in range(0, len(names), _WATCHED)]


def _feeds(signature: Signature, samples: Samples | None, seed: int) -> list[Feed]:
    if samples is None:
        return [probe.feed for probe in probe_feeds(signature, seed=seed, count=_FEEDS)]
    feeds = list(itertools.islice(samples.feeds(sample_batch(signature)), _FEEDS))
    for feed in feeds:
        signature.check(feed)
    return list(feeds)


def _shared(left: ir.Model, right: ir.Model) -> list[str]:
    """Names of float tensors that nodes of both main graphs write, in the order of the first."""
    floats = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, None)  # None: not declared
    written = {value.name for node in right.graph for value in node.outputs}
    names = [str(value.name) for node in left.graph for value in node.outputs if value.dtype in floats and value.name]
    return [name for name in names if name in written]


class _Meter:
    """Runs both models with some of their tensors as outputs."""

    def __init__(self, left: ir.Model, right: ir.Model, directory: Path) -> None:
        self._models, self._directory = (left, right), directory

    def measure(self, names: list[str], feeds: Sequence[Feed]) -> dict[str, tuple[float, tuple[int, ...]]]:
        """name -> decibels and the last shape, for those that turn out to be floats of one shape on both sides."""
        sessions = [self._session(model, names) for model in self._models]
        squares = {name: np.zeros(4) for name in names}
        shapes: dict[str, tuple[int, ...]] = {}
        for feed in feeds:
            answers = [_run(session, names, feed) for session in sessions]
            for name, a, b in zip(names, *answers, strict=True):
                if a.dtype.kind != "f" or a.shape != b.shape:
                    squares.pop(name, None)
                elif name in squares:
                    squares[name] += difference(a, b).squares
                    shapes[name] = a.shape
        return {name: (_decibels(total[0], total[2]), shapes[name]) for name, total in squares.items()}

    def _session(self, model: ir.Model, names: list[str]) -> Any:
        watched = model.clone()
        present = {value.name for value in watched.graph.outputs}
        for node in watched.graph:
            for value in node.outputs:
                if value.name in names and value.name not in present:
                    value.shape = None  # whatever the file says of it
                    watched.graph.outputs.append(value)
        path = self._directory / "watched.onnx"
        modelfile.save(watched, Artifact(path), overwrite=True)
        return open_session(path)


def _run(session: Any, names: list[str], feed: Feed) -> list[Array]:
    try:
        answers: list[Array] = session.run(names, dict(feed))
    # onnxruntime's exceptions share no base below Exception.
    except Exception as error:
        raise InputError(f"one of the models refuses the feed: {error}") from error
    return answers


def _decibels(signal: float, noise: float) -> float:
    if noise <= signal * 10 ** (-BEST_DB / 10):
        return BEST_DB
    return 10 * math.log10(signal / noise) if signal else -BEST_DB


def _rows(model: ir.Model, found: dict[str, tuple[float, tuple[int, ...]]]) -> list[TensorNoise]:
    """In graph order. What is not compared passes on the worst of what went into it."""
    reached: dict[str, float] = {}
    rows = []
    for node in model.graph:
        read = min((reached[v.name] for v in node.inputs if v is not None and v.name in reached), default=BEST_DB)
        for value in node.outputs:
            name = str(value.name)
            if name in found:
                decibels, shape = found[name]
                rows.append(TensorNoise(name, node.op_type, shape, decibels, max(0.0, read - decibels)))
            reached[name] = found[name][0] if name in found else read
    return rows


def picture(noise: Noise, path: str | Path, *, overwrite: bool = False) -> None:
    """Write an SVG: decibels of each tensor along the graph, the ten worst losses marked and named."""
    width, height, left, top = 1100, 420, 60, 40
    count = max(1, len(noise.tensors) - 1)
    low = min([0.0, *(tensor.sqnr_db for tensor in noise.tensors)])
    high = max([60.0, *(tensor.sqnr_db for tensor in noise.tensors if tensor.sqnr_db < BEST_DB)])

    def x(index: int) -> float:
        return left + (width - left - 20) * index / count

    def y(decibels: float) -> float:
        return top + (height - top - 40) * (high - min(max(decibels, low), high)) / (high - low)

    points = " ".join(f"{x(i):.1f},{y(tensor.sqnr_db):.1f}" for i, tensor in enumerate(noise.tensors))
    lines = [
        f'<line x1="{left}" x2="{width - 20}" y1="{y(db):.1f}" y2="{y(db):.1f}" class="grid"/>'
        f'<text x="{left - 8}" y="{y(db) + 4:.1f}" text-anchor="end">{db} dB</text>'
        for db in range(math.ceil(low / 20) * 20, math.floor(high) + 1, 20)
    ]
    places = {tensor.name: i for i, tensor in enumerate(noise.tensors)}
    marks = [
        f'<circle cx="{x(places[t.name]):.1f}" cy="{y(t.sqnr_db):.1f}" r="4">'
        f"<title>{_escaped(f'{t.name} ({t.op_type}): {t.sqnr_db:.1f} dB, {t.lost_db:.1f} lost here')}</title></circle>"
        f'<text x="{x(places[t.name]):.1f}" y="{y(t.sqnr_db) + 18:.1f}" text-anchor="middle">{rank}</text>'
        for rank, t in enumerate(noise.worst(), 1)
        if t.lost_db > 0
    ]
    title = _escaped(f"{noise.candidate.name} against {noise.reference.name}: signal to noise of each tensor")
    style = (
        "text{font:12px sans-serif;fill:#555}.grid{stroke:#8884}polyline{fill:none;stroke:#2a6fdb;stroke-width:2}"
        "circle{fill:#d33}.title{font-size:16px}@media(prefers-color-scheme:dark){text{fill:#bbb}}"
    )
    atomic_text(
        path,
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
        f"<title>{title}</title><style>{style}</style>"
        f'<text x="{left}" y="22" class="title">{title}</text>{"".join(lines)}'
        f'<polyline points="{points}"/>{"".join(marks)}'
        f'<text x="{left}" y="{height - 10}">first tensor of the graph</text>'
        f'<text x="{width - 20}" y="{height - 10}" text-anchor="end">last tensor</text></svg>\n',
        overwrite=overwrite,
    )


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
