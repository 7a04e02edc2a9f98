"""Write a model whose weights do not fit in memory: each goes to the output's data file as soon as it is made.

The float model is not run beside the result, which is what would not fit. What is proven instead: how far each
weight is from the one it was made of, and that ONNX Runtime opens the result and answers one feed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx_ir as ir

from edgeai.artifact import Artifact
from edgeai.errors import QuantizationError
from edgeai.probing import probe_feeds
from edgeai.quantization.layers import read_tensor
from edgeai.quantization.recipe import in_memory
from edgeai.quantization.sessions import open_session
from edgeai.spec import Array, Signature
from edgeai.storage import sha256

# Twice this, for the two models side by side, and once more for what ONNX Runtime packs, is what a small machine has.
STREAMED_ABOVE_BYTES = 2_000_000_000

_INSIDE_UP_TO_BYTES = 1024
_FARTHEST = 1.0  # relative error of a weight: one that is all zeros is no farther


def weight_bytes(model: ir.Model) -> int:
    """What all initializers take, wherever they lie."""
    tensors = (value.const_value for graph in model.graphs() for value in graph.initializers.values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


@dataclass
class FileStore:
    """A `Store` that appends to the open file `stream`; its tensors are external data beside the graph.

    What is small stays in the graph: ONNX Runtime looks for shapes and axes nowhere else.
    """

    stream: BinaryIO
    path: Path

    def __call__(self, name: str, array: Array) -> ir.TensorProtocol:
        if array.nbytes <= _INSIDE_UP_TO_BYTES:
            return in_memory(name, array)
        array = np.ascontiguousarray(array)
        offset = self.stream.tell()
        self.stream.write(array.data)
        dtype = ir.DataType.from_numpy(array.dtype)
        return ir.ExternalTensor(
            self.path.name, offset, array.nbytes, dtype,
            shape=ir.Shape(array.shape), name=name, base_dir=self.path.parent,
        )  # fmt: skip


@contextlib.contextmanager
def file_store(directory: Path) -> Iterator[FileStore]:
    """A store in `directory`, its file complete when the block ends."""
    path = directory / "weights"
    with open(path, "wb") as stream:
        yield FileStore(stream, path)


def store_rest(model: ir.Model, store: FileStore) -> None:
    """Move to the store, one at a time, what no recipe has put there: norms, biases, weights that stay float."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.dtype is ir.DataType.STRING:
                continue
            if not (isinstance(tensor, ir.ExternalTensor) and Path(tensor.path) == store.path):
                value.const_value = store(str(value.name), read_tensor(tensor))


def write_graph(model: ir.Model, artifact: Artifact, directory: Path) -> Path:
    """Name the store's file in `directory` by its content, as `modelfile` does, and write the graph beside it."""
    data, path = directory / "weights", directory / artifact.path.name
    final = data.with_name(f"{path.stem}-{sha256(data)[:16]}.data")
    os.replace(data, final)
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(tensor := value.const_value, ir.ExternalTensor):
                value.const_value = ir.ExternalTensor(
                    final.name, tensor.offset, tensor.length, tensor.dtype,
                    shape=tensor.shape, name=tensor.name, base_dir=directory,
                )  # fmt: skip
    model.metadata_props.update(artifact.metadata())
    ir.save(model, path, format="protobuf")
    return path


def refuse_far(errors: Mapping[str, float]) -> None:
    """Raise QuantizationError, naming it, for a weight that was rounded no better than to zeros."""
    name, error = max(errors.items(), key=lambda item: item[1], default=("", 0.0))
    if not error < _FARTHEST:
        raise QuantizationError(f"weight {name} is {error:.2f} away from what it was made of, relative to its size")


def answer_once(path: Path, signature: Signature, what: str) -> str:
    """Open the result and run one generated feed; what the feed was.

    Without packed weights: packing would hold most of them twice. Raises QuantizationError if it answers NaN or
    infinity, or not at all.
    """
    session = open_session(path, prepacked=False)
    probe = probe_feeds(signature, seed=0, count=1)[0]
    try:
        answers = session.run(None, probe.feed)
    # onnxruntime's exceptions share no base below Exception.
    except Exception as error:
        raise QuantizationError(f"{what}: quantized, it fails at {probe.description}: {error}") from error
    for spec, answer in zip(signature.outputs, answers, strict=True):
        if np.asarray(answer).dtype.kind == "f" and not np.isfinite(answer).all():
            raise QuantizationError(f"{what}: quantized, {spec.name} is NaN or infinite at {probe.description}")
    return probe.description
