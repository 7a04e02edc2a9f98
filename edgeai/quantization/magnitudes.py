"""How large the values of every tensor become, on samples and on generated feeds."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.errors import QuantizationError
from edgeai.probing import STYLES, probe_feeds
from edgeai.quantization.observers import calibration_feeds
from edgeai.quantization.recipe import Setting
from edgeai.quantization.sessions import open_session
from edgeai.spec import Array, Feed

_SAMPLES = 32
_TOGETHER = 32  # tensors fetched by one run: all of them at once may not fit in memory


def magnitudes(model: ir.Model, setting: Setting) -> dict[str, float]:
    """The largest finite |x| of each float32 input and each float32 tensor that the main graph computes.

    Infinity and NaN are left out: half precision has them too. Raises QuantizationError if no feed is answered.
    """
    observed = model.clone()
    outputs = {value.name for value in observed.graph.outputs}
    for value in [
        value for node in observed.graph for value in node.outputs if value.name and value.name not in outputs
    ]:
        value.type = value.shape = None  # whatever the file says of it; ONNX Runtime infers both
        observed.graph.outputs.append(value)
    with tempfile.TemporaryDirectory(prefix="edgeai-") as directory:
        path = Path(directory) / "observed.onnx"
        modelfile.save(observed, Artifact(path))
        session = open_session(path, level="basic")
    computed = [output.name for output in session.get_outputs() if output.type == "tensor(float)"]
    found = dict.fromkeys(computed, 0.0)
    found |= {spec.name: 0.0 for spec in setting.signature.inputs if spec.dtype == "float32"}
    answered = 0
    for feed in _feeds(setting):
        try:
            for names in (computed[i : i + _TOGETHER] for i in range(0, len(computed), _TOGETHER)):
                for name, array in zip(names, session.run(names, dict(feed)), strict=True):
                    found[name] = max(found[name], _largest(array))
        # onnxruntime's exceptions share no base below Exception. What the float model refuses shows nothing.
        except Exception as error:
            setting.progress.log(f"a feed left out: the float model refuses it ({error})")
            continue
        answered += 1
        for name, array in feed.items():
            if name in found:
                found[name] = max(found[name], _largest(array))
    if not answered:
        raise QuantizationError(
            f"{setting.source}: answers none of the generated feeds, so its ranges are unknown",
            hint="give samples (-d samples.npz)",
        )
    return found


def _largest(array: Array) -> float:
    finite = np.abs(array[np.isfinite(array)])
    return float(finite.max()) if finite.size else 0.0


def _feeds(setting: Setting) -> Iterator[Feed]:
    if setting.samples is not None:
        yield from itertools.islice(calibration_feeds(setting.signature, setting.samples), _SAMPLES)
    for probe in probe_feeds(setting.signature, seed=1, count=len(STYLES), shapes=False):
        yield probe.feed
