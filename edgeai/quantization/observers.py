"""The range of every tensor that a static recipe will quantize, in one pass over the samples.

What is kept is two numbers a tensor: memory does not grow with the number of samples, and feeds may be ragged.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.errors import QuantizationError
from edgeai.progress import SILENT, Progress
from edgeai.quantization.sessions import open_session
from edgeai.samples import Samples
from edgeai.spec import Array, Feed, Signature


@dataclass(frozen=True)
class Range:
    """The smallest and the largest value seen; `low > high` as long as nothing was."""

    low: float = math.inf
    high: float = -math.inf

    def including(self, array: Array) -> Range:
        """The range that covers `array` too. An empty array changes nothing; NaN stays NaN."""
        if not array.size:
            return self
        return Range(float(np.minimum(self.low, array.min())), float(np.maximum(self.high, array.max())))

    @property
    def is_empty(self) -> bool:
        return self.low > self.high

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


def observe(
    model: ir.Model,
    names: Iterable[str],
    signature: Signature,
    samples: Samples,
    *,
    progress: Progress = SILENT,
) -> dict[str, Range]:
    """Run `model` on all `samples`; name -> range of those among the tensors `names` that are float32.

    A tensor that never had an element gets the range 0..0. Raises InputError for samples that do not fit the signature,
    QuantizationError where a tensor is NaN or the model does not run.
    """
    inputs = {spec.name for spec in signature.inputs if spec.dtype == "float32"}
    wanted = set(names)
    with tempfile.TemporaryDirectory(prefix="edgeai-") as directory:
        session = _session(model, wanted, Path(directory) / "observed.onnx")
        computed = [o.name for o in session.get_outputs() if o.name in wanted and o.type == "tensor(float)"]
        ranges = {name: Range() for name in (*computed, *sorted(wanted & inputs))}
        with progress.task("calibrate", count_feeds(signature, samples)) as advance:
            for index, feed in enumerate(calibration_feeds(signature, samples)):
                for name, array in _observed(session, computed, feed).items():
                    if name in ranges:
                        ranges[name] = _include(ranges[name], name, array, index)
                advance()
    return {name: Range(0.0, 0.0) if found.is_empty else found for name, found in ranges.items()}


def calibration_feeds(signature: Signature, samples: Samples) -> Iterator[Feed]:
    """Every sample in a feed that the model takes: rows one by one, or as many as its batch axis is fixed to.

    A last batch that is not full repeats its last row; a repeated row changes no minimum and no maximum.
    Raises InputError for a sample that does not fit the signature.
    """
    batch = _batch(signature)
    for feed in samples.feeds(batch):
        if samples.rows:
            rows = len(next(iter(feed.values())))
            feed = {name: array[np.minimum(np.arange(batch), rows - 1)] for name, array in feed.items()}
        signature.check(feed)
        yield feed


def count_feeds(signature: Signature, samples: Samples) -> int:
    """How many feeds `calibration_feeds` yields."""
    return -(-len(samples) // _batch(signature)) if samples.rows else len(samples)


def _batch(signature: Signature) -> int:
    first = next((spec.shape[0] for spec in signature.inputs if spec.shape), 1)
    return first if isinstance(first, int) else max(1, signature.axis(first).minimum)


def _session(model: ir.Model, wanted: set[str], path: Path) -> Any:
    observed = model.clone()
    present = {value.name for value in observed.graph.outputs}
    for node in observed.graph:
        for value in node.outputs:
            if value.name in wanted and value.name not in present:
                value.type = value.shape = None  # whatever the file says of it; ONNX Runtime infers both
                observed.graph.outputs.append(value)
    modelfile.save(observed, Artifact(path))
    return open_session(path, level="basic")


def _observed(session: Any, computed: list[str], feed: Feed) -> dict[str, Array]:
    try:
        arrays = session.run(computed, dict(feed)) if computed else []
    # onnxruntime's exceptions share no base below Exception.
    except Exception as error:
        raise QuantizationError(f"calibration: the model does not run on the samples: {error}") from error
    return dict(feed) | dict(zip(computed, arrays, strict=True))


def _include(found: Range, name: str, array: Array, index: int) -> Range:
    found = found.including(array)
    if math.isnan(found.low) or math.isnan(found.high):
        raise QuantizationError(
            f"calibration: tensor {name} is NaN in feed {index}, so it has no range",
            hint="the model or that sample is broken in floating point already",
        )
    return found
