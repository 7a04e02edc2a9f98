"""Second moments of what layers read, from samples: which columns of a weight matter, and which of them together."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.errors import QuantizationError
from edgeai.quantization.observers import calibration_feeds, count_feeds
from edgeai.quantization.recipe import Setting
from edgeai.quantization.sessions import open_session
from edgeai.spec import Array

_GROUP_BYTES = 512_000_000  # of moments that are summed at a time


def second_moments(
    model: ir.Model, widths: Mapping[str, int], setting: Setting, *, full: bool
) -> Iterator[dict[str, Array]]:
    """Mean of x x^T (K,K) if `full`, else of x^2 (K,), float32, of each tensor (..., K) named in `widths`.

    The float model runs on all samples once for every dictionary, which holds as many tensors as memory allows.
    Tensors that are computed inside a subgraph have no moments and stand in no dictionary.
    Raises QuantizationError where a tensor is not finite or the model does not run, InputError.
    """
    assert setting.samples is not None
    inputs = {spec.name for spec in setting.signature.inputs}
    reachable = inputs | {value.name for node in model.graph for value in node.outputs}
    groups = list(_groups({name: width for name, width in widths.items() if name in reachable}, full))
    with setting.progress.task("observe", count_feeds(setting.signature, setting.samples) * len(groups)) as advance:
        for names in groups:
            with tempfile.TemporaryDirectory(prefix="edgeai-") as directory:
                computed = [name for name in names if name not in inputs]
                path = _expose(model, computed, Path(directory) / "observed.onnx")
                session = open_session(path, level="basic")
            sums = {name: np.zeros((widths[name],) * (2 if full else 1)) for name in names}
            count = dict.fromkeys(names, 0)
            for feed in calibration_feeds(setting.signature, setting.samples):
                try:
                    arrays = session.run(computed, dict(feed)) if computed else []
                # onnxruntime's exceptions share no base below Exception.
                except Exception as error:
                    raise QuantizationError(f"the model does not run on the samples: {error}") from error
                values = dict(feed) | dict(zip(computed, arrays, strict=True))
                for name in names:
                    rows = values[name].reshape(-1, widths[name])
                    sums[name] += rows.T @ rows if full else np.square(rows).sum(0, dtype=np.float64)
                    count[name] += len(rows)
                advance()
            yield {name: _mean(name, sums.pop(name), count[name]) for name in names}


def _mean(name: str, total: Array, count: int) -> Array:
    if not np.isfinite(total).all():
        raise QuantizationError(f"tensor {name} is NaN or infinite on the samples, so its weight has no importance")
    mean: Array = (total / max(count, 1)).astype(np.float32)
    return mean


def _groups(widths: Mapping[str, int], full: bool) -> Iterator[list[str]]:
    group: list[str] = []
    size = 0
    for name, width in widths.items():
        needed = 8 * width * (width if full else 1)
        if group and size + needed > _GROUP_BYTES:
            yield group
            group, size = [], 0
        group.append(name)
        size += needed
    if group:
        yield group


def _expose(model: ir.Model, names: Iterable[str], path: Path) -> Path:
    observed = model.clone()
    present = {value.name for value in observed.graph.outputs}
    wanted = set(names) - present
    for node in observed.graph:
        for value in node.outputs:
            if value.name in wanted:
                value.type = value.shape = None  # whatever the file says of it; ONNX Runtime infers both
                observed.graph.outputs.append(value)
    modelfile.save(observed, Artifact(path))
    return path
