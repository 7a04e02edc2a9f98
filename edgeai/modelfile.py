"""The only place that reads or writes ONNX: preflight, check, stamp the lineage, write aside and rename."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from edgeai import mapped
from edgeai.artifact import LINEAGE_KEY, Artifact, Step
from edgeai.errors import ModelFormatError
from edgeai.external import refuse_outside
from edgeai.machine import versions
from edgeai.ort import onnxruntime
from edgeai.spec import Array, Axis, Signature, TensorSpec
from edgeai.storage import atomic_files, sha256

# A protobuf message ends at 2 GiB; what is written beside the weights needs room too.
EXTERNAL_DATA_ABOVE_BYTES = 1_500_000_000

_APART_BYTES = 1024  # what shapes and axes are read from stays in the graph
_NUMPYS_OWN = frozenset({
    ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BOOL, ir.DataType.INT8, ir.DataType.INT16,
    ir.DataType.INT32, ir.DataType.INT64, ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64,
})  # fmt: skip


def load(path: str | Path) -> ir.Model:
    """Parse an ONNX file; large weights stay memory-mapped on disk, inside the file or beside it.

    Raises ModelFormatError if it is missing or is not ONNX, UnsafePathError if its weights lie elsewhere.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelFormatError(f"{path}: {'is a directory' if path.is_dir() else 'no such file'}")
    refuse_outside(path)
    try:
        model = mapped.load(path)
    # The parser's own errors are not one family: protobuf, unicode, key and value errors all occur on bad bytes.
    except Exception as error:
        raise ModelFormatError(f"{path}: not an ONNX model ({type(error).__name__}: {error})") from error
    if not len(model.graph.outputs):
        raise ModelFormatError(f"{path}: not an ONNX model (the graph has no outputs)")
    return model


def open_artifact(path: str | Path) -> Artifact:
    """An ONNX file from anywhere, with whatever lineage and signature edgeai stamped into it."""
    model = load(path)
    artifact = Artifact.from_metadata(path, model.metadata_props)
    if artifact.signature is None:
        artifact = Artifact(artifact.path, artifact.lineage, signature_of(model))
    return artifact


def signature_of(model: ir.Model, axes: tuple[Axis, ...] = ()) -> Signature:
    """Names, dtypes and axes as the graph declares them. An axis without a name gets one from its tensor."""

    def spec(value: ir.Value) -> TensorSpec:
        if value.dtype is None or value.shape is None:
            raise ModelFormatError(f"{value.name}: the graph declares no dtype or no shape for it")
        shape = tuple(
            dim if isinstance(dim, int) else dim.value or f"{value.name}_{i}" for i, dim in enumerate(value.shape)
        )
        return TensorSpec(str(value.name), "string" if value.dtype is ir.DataType.STRING else _dtype(value), shape)

    initializers = model.graph.initializers
    inputs = tuple(spec(value) for value in model.graph.inputs if value.name not in initializers)
    return Signature(inputs, tuple(map(spec, model.graph.outputs)), axes)


def _dtype(value: ir.Value) -> str:
    assert value.dtype is not None
    return str(value.dtype.numpy().name)


def step(tool: str, options: dict[str, object], parent: Artifact | None = None) -> Step:
    """The lineage entry of a tool that is about to write: its options, the versions in use, its input's hash."""
    return Step(tool, options, versions(), sha256(parent.path) if parent is not None else "")


@contextlib.contextmanager
def draft(
    model: ir.Model, artifact: Artifact, *, overwrite: bool = False, external_above_bytes: int | None = None
) -> Iterator[Artifact]:
    """Write `model` aside, where ONNX Runtime has opened it, and yield the artifact as it stands there.

    When the block ends it gets its name, `artifact.path`; when the block raises it vanishes. `artifact`'s signature
    and lineage are stamped into it; one without a lineage waits for `stamp`. Weights too large for protobuf go to
    one file beside it, named by its content, so that an interrupted overwrite never pairs an old graph with new
    weights. Raises ModelFormatError if ONNX Runtime refuses the model, ExistsError.
    """
    path = artifact.path
    limit = EXTERNAL_DATA_ABOVE_BYTES if external_above_bytes is None else external_above_bytes
    weights = [v.const_value for graph in model.graphs() for v in graph.initializers.values() if v.const_value]
    stamps = artifact.metadata()
    model.metadata_props.pop(LINEAGE_KEY, None)
    model.metadata_props.update(stamps if artifact.lineage else {k: v for k, v in stamps.items() if k != LINEAGE_KEY})
    with atomic_files(path, overwrite=overwrite) as directory:
        written = directory / path.name
        if sum(tensor.nbytes for tensor in weights) > limit:
            _save_with_data(model, written)
        else:
            ir.external_data.load_to_model(model)
            _write(model, written)
        check(written, shown_as=path)
        yield dataclasses.replace(artifact, path=written)


def stamp(path: Path, artifact: Artifact) -> None:
    """Add `artifact`'s lineage to a draft that has none, without writing its weights again.

    Concatenated protobuf messages are one message whose repeated fields are joined (protobuf.dev, "Encoding").
    """
    entry = onnx.StringStringEntryProto(key=LINEAGE_KEY, value=artifact.metadata()[LINEAGE_KEY])
    with open(path, "ab") as stream:
        stream.write(onnx.ModelProto(metadata_props=[entry]).SerializeToString())


def save(
    model: ir.Model, artifact: Artifact, *, overwrite: bool = False, external_above_bytes: int | None = None
) -> Artifact:
    """Stamp `artifact` into `model` and write it to `artifact.path`, whole or not at all: see `draft`."""
    with draft(model, artifact, overwrite=overwrite, external_above_bytes=external_above_bytes):
        return artifact


def _save_with_data(model: ir.Model, path: Path) -> None:
    data = path.with_name("weights")
    _write(model, path, external_data=data.name)
    final = f"{path.stem}-{sha256(data)[:16]}.data"
    os.replace(data, path.with_name(final))
    _point_to(path, data.name, final)


def _point_to(path: Path, old: str, new: str) -> None:
    """Rename the external data that the graph at `path` refers to."""
    model = ir.load(path)
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(tensor := value.const_value, ir.ExternalTensor) and tensor.location == old:
                value.const_value = ir.ExternalTensor(
                    new, tensor.offset, tensor.length, tensor.dtype,
                    shape=tensor.shape, name=tensor.name, base_dir=tensor.base_dir,
                )  # fmt: skip
    _write(model, path)


def _write(model: ir.Model, path: Path, *, external_data: str | None = None) -> None:
    with _unstated(model):
        ir.save(model, path, format="protobuf", external_data=external_data)


@contextlib.contextmanager
def _unstated(model: ir.Model) -> Iterator[None]:
    """Nothing is stated of initializers beside their tensors, which have dtype and shape.

    Tools that transpose a weight forget what is stated elsewhere (`onnxruntime.quantization.quantize_dynamic`), and
    what exporters note of a weight (`metadata_props`) would be a `value_info` without a type.
    """
    values = [value for graph in model.graphs() for value in graph.initializers.values()]
    plain = [value for value in values if not (value.is_graph_input() or value.is_graph_output())]
    stated = [(value, value.type, value.shape, value.doc_string, dict(value.metadata_props)) for value in plain]
    for value in plain:
        value.type = value.shape = value.doc_string = None
        value.metadata_props.clear()
    try:
        yield
    finally:
        for value, kind, shape, text, notes in stated:
            value.type, value.shape, value.doc_string = kind, shape, text
            value.metadata_props.update(notes)


def in_memory(model: ir.Model) -> tuple[bytes, dict[str, Array]]:
    """`model` as ONNX bytes without its larger weights, and those by name: `SessionOptions.add_external_initializers`.

    The arrays are views of what `model` holds, so that nothing is copied or written. What has no dtype of numpy's own
    stays among the bytes.
    """
    copy = model.clone()
    apart: dict[str, Array] = {}
    for name, value in copy.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.nbytes < _APART_BYTES or tensor.dtype not in _NUMPYS_OWN:
            continue
        if not (value.is_graph_input() or value.is_graph_output()):
            apart[name] = np.ascontiguousarray(tensor.numpy())
            value.const_value = None
    ir.external_data.load_to_model(copy)  # bytes have no directory in which files could be found
    for name, array in apart.items():
        kind, shape = ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape)
        copy.graph.initializers[name].const_value = ir.ExternalTensor("", 0, array.nbytes, kind, shape=shape, name=name)
    with _unstated(copy):
        return ir.to_proto(copy).SerializeToString(), apart


def check(path: Path, *, shown_as: Path | None = None) -> None:
    """Raise ModelFormatError unless ONNX Runtime can create a CPU session from the file."""
    try:
        onnxruntime().InferenceSession(str(path), plain_options(), providers=["CPUExecutionProvider"])
    # onnxruntime's exceptions share no base below Exception, and bad bytes also surface as UnicodeDecodeError.
    except Exception as error:
        text = str(error).replace(f"Load model from {path} failed:", "")
        raise ModelFormatError(f"{shown_as or path}: ONNX Runtime cannot open it: {text}") from error


def plain_options() -> Any:
    """`SessionOptions` for seeing that a graph opens as it stands: without a log, optimizers, or copies of weights."""
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.disable_prepacking", "1")
    return options
