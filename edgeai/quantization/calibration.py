"""What was seen of a model's tensors over a set of feeds: can be kept on disk, continued and merged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgeai.errors import DataError, QuantizationError
from edgeai.mapped import MappedTensor
from edgeai.quantization.histogram import HALF, Histogram
from edgeai.quantization.statistics import MOMENTUM, Channels, Statistics
from edgeai.samples import load_arrays
from edgeai.spec import Array
from edgeai.storage import atomic_file

_FORMAT = f"edgeai calibration 1, {HALF} bins, momentum {MOMENTUM}"


@dataclass(frozen=True)
class Calibration:
    """`tensors` by name; `model` is its digest, `feeds` the digest of each feed, in order.

    Each tensor has seen the first `Statistics.feeds` of them. It holds what every observer needs, so that one
    calibration serves all recipes. `others` are tensors that were asked for but are not float32.
    """

    model: str
    feeds: tuple[str, ...]
    tensors: dict[str, Statistics]
    others: set[str] = field(default_factory=set)

    @property
    def digest(self) -> str:
        """Names the model and the feeds, not what was seen of them."""
        return hashlib.sha256("\n".join((_FORMAT, self.model, *self.feeds)).encode()).hexdigest()

    @property
    def is_complete(self) -> bool:
        return all(seen.feeds == len(self.feeds) for seen in self.tensors.values())

    def merge(self, other: Calibration) -> Calibration:
        """As if the feeds of `other` had come after these; the tensors that both have.

        Raises QuantizationError for another model, or while one of the two is incomplete.
        """
        if self.model != other.model:
            raise QuantizationError("calibrations of two different models cannot be merged")
        if not (self.is_complete and other.is_complete):
            raise QuantizationError("an interrupted calibration cannot be merged", hint="let it finish first")
        tensors = {
            name: seen.merge(other.tensors[name]) for name, seen in self.tensors.items() if name in other.tensors
        }
        return Calibration(self.model, self.feeds + other.feeds, tensors, self.others | other.others)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write an `.npz`, whole or not at all."""
        seen = list(self.tensors.values())
        channels = [one.channels for one in seen]
        header = {
            "format": _FORMAT,
            "model": self.model,
            "feeds": self.feeds,
            "names": list(self.tensors),
            "others": sorted(self.others),
            "axes": [found.axis if found else None for found in channels],
            "channels": [len(found.total) if found else 0 for found in channels],
        }
        arrays = {
            "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
            "counts": np.array([one.histogram.counts for one in seen]),
            "integers": np.array(
                [
                    (h.exponent, h.zeros, h.marks, one.feeds, one.averaged, one.channels.count if one.channels else 0)
                    for one in seen
                    for h in [one.histogram]
                ],
                np.int64,
            ),
            "floats": np.array([(one.histogram.low, one.histogram.high, *one.recent) for one in seen]),
            "largest": np.concatenate([np.empty(0), *(found.largest for found in channels if found)]),
            "total": np.concatenate([np.empty(0), *(found.total for found in channels if found)]),
        }
        with atomic_file(path, overwrite=overwrite) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]  # numpy's stubs take a dict for its own flag

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what `save` wrote. Raises DataError naming the file."""
        arrays = load_arrays(path, "calibration")
        try:
            header = json.loads(bytes(arrays["header"]))
            if header["format"] != _FORMAT:
                raise ValueError(f"its format is {header['format']!r}, not {_FORMAT!r}")
            tensors, start = {}, 0
            for index, name in enumerate(header["names"]):
                axis, number = header["axes"][index], header["channels"][index]
                part = slice(start, start := start + number)
                channels = None if axis is None else (axis, arrays["largest"][part], arrays["total"][part])
                counts, integers, floats = (arrays[key][index] for key in ("counts", "integers", "floats"))
                tensors[name] = _statistics(counts, integers, floats, channels)
            return cls(header["model"], tuple(header["feeds"]), tensors, set(header["others"]))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise DataError(f"{path}: not a calibration ({error})") from error


def _statistics(counts: Array, integers: Array, floats: Array, channels: tuple[int, Array, Array] | None) -> Statistics:
    if counts.shape != (2 * HALF,):
        raise ValueError(f"a histogram of {counts.shape} bins")
    exponent, zeros, marks, feeds, averaged, positions = (int(value) for value in integers)
    low, high, *recent = (float(value) for value in floats)
    return Statistics(
        Histogram(exponent, counts.copy(), zeros, marks, low, high),
        (recent[0], recent[1]),
        averaged,
        feeds,
        Channels(*channels, positions) if channels is not None else None,
    )


def model_digest(model: ir.Model) -> str:
    """Hash of what the model computes: inputs, outputs, nodes and all weights, wherever those are stored."""
    state = hashlib.sha256()

    def add(*parts: object) -> None:
        state.update(repr(parts).encode())

    add(sorted(model.opset_imports.items()))
    for value in (*model.graph.inputs, *model.graph.outputs):
        add(value.name, str(value.type), str(value.shape))
    for node in model.graph:
        state.update(ir.serde.serialize_node(node).SerializeToString(deterministic=True))
    for function in model.functions.values():
        state.update(ir.serde.serialize_function(function).SerializeToString(deterministic=True))
    for name, value in sorted(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor is not None:
            add(name, tensor.dtype, tuple(tensor.shape.numpy()))
            state.update(_bytes(tensor))
            if isinstance(tensor, MappedTensor):
                tensor.release()
    return state.hexdigest()


def _bytes(tensor: ir.TensorProtocol) -> bytes | memoryview:
    array = np.ascontiguousarray(tensor.numpy())
    if array.dtype == object:  # strings
        return repr(array.tolist()).encode()
    return array.reshape(-1).view(np.uint8).data  # no copy of a large weight


def kept(directory: Path, model: str, feeds: Sequence[str]) -> tuple[Path, Calibration]:
    """Where in `directory` the calibration of this model on these feeds is kept, and what is there of it so far."""
    fresh = Calibration(model, tuple(feeds), {})
    path = directory / f"calibration-{fresh.digest[:32]}.npz"
    return path, Calibration.load(path) if path.exists() else fresh
