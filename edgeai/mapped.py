"""ONNX files whose large weights stay on disk: mapped into memory, where what nobody reads takes no room.

The parser copies a file twice, and what it has made of it stays. So it gets the graph without the weights, and those
become views of the file itself. The mapping keeps the file it was made of, whatever is renamed over it meanwhile.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from edgeai.external import varint
from edgeai.spec import Array

_LARGE_BYTES = 1 << 16
# Field numbers of onnx.proto.
_GRAPH, _TENSOR, _NAME, _RAW_DATA = 7, 5, 8, 9
_VARINT, _LENGTH_DELIMITED = 0, 2
_FIXED_BYTES = {1: 8, 5: 4}


class MappedTensor(ir.Tensor):  # type: ignore[type-arg]
    """A weight that lies in a file. `release` gives back the memory of what has been read; it can be read again."""

    __slots__ = ("_mapping", "_offset")

    def __init__(self, array: Array, mapping: mmap.mmap, offset: int, *, like: ir.TensorProtocol) -> None:
        super().__init__(
            array, like.dtype, shape=ir.Shape(like.shape.numpy()), name=like.name, doc_string=like.doc_string,
            metadata_props=dict(like.metadata_props),
        )  # fmt: skip
        self._mapping, self._offset = mapping, offset

    def release(self) -> None:
        start = self._offset // mmap.PAGESIZE * mmap.PAGESIZE
        self._mapping.madvise(mmap.MADV_DONTNEED, start, self._offset + self.nbytes - start)


@dataclass(frozen=True)
class _Field:
    """`start` is where its tag begins, `begin` where its content does, both offsets in the file like `end`."""

    number: int
    start: int
    begin: int
    end: int


def load(path: Path) -> ir.Model:
    """Parse an ONNX file, its large weights mapped. Raises whatever the parser raises on bad bytes."""
    if os.name != "posix" or os.path.getsize(path) < _LARGE_BYTES:  # Windows does not rename over mapped files
        return ir.load(path)
    with open(path, "rb") as stream:
        mapping = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        rest, spans = _split(mapping)
        model: ir.Model = ir.from_proto(onnx.ModelProto.FromString(rest))
        for name, (begin, end) in spans.items():
            value = model.graph.initializers[name]
            value.const_value = _tensor(mapping, begin, end, value.const_value)
    except (ValueError, KeyError):  # no such file, or a strange one: the parser says it better
        return ir.load(path)
    ir.external_data.set_base_dir(model.graph, path.parent)
    return model


def release(model: ir.Model) -> None:
    """Give back the memory of all mapped weights that have been read."""
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, MappedTensor):
            value.const_value.release()


def _tensor(mapping: mmap.mmap, begin: int, end: int, like: ir.TensorProtocol | None) -> ir.TensorProtocol:
    """What `like`, which was parsed without its data, is with it."""
    if like is None or like.dtype is ir.DataType.STRING or like.nbytes != end - begin:
        raise ValueError("the data is not what the shape says")
    shape = like.shape.numpy()
    if like.dtype.bitwidth < 8:  # packed: numpy has no such type
        raw = onnx.TensorProto(name=like.name, dims=shape, data_type=like.dtype.value, raw_data=mapping[begin:end])
        packed: ir.TensorProtocol = ir.from_proto(raw)
        return packed
    array = np.frombuffer(mapping, like.dtype.numpy(), offset=begin, count=like.size)
    return MappedTensor(array.reshape(shape), mapping, begin, like=like)


def _split(data: mmap.mmap) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """The file without its large weights, and where those lie, by name. ValueError for what is no such file."""
    graphs = [field for field in _fields(data, 0, len(data)) if field.number == _GRAPH]
    if len(graphs) != 1:  # parts of one graph, to be merged
        raise ValueError("not one graph")
    spans: dict[str, tuple[int, int]] = {}
    graph = bytearray()
    for field in _fields(data, graphs[0].begin, graphs[0].end):
        inside = {one.number: one for one in _fields(data, field.begin, field.end)} if field.number == _TENSOR else {}
        raw, name = inside.get(_RAW_DATA), inside.get(_NAME)
        if raw is None or name is None or raw.end - raw.begin < _LARGE_BYTES:
            graph += data[field.start : field.end]
            continue
        if (key := data[name.begin : name.end].decode()) in spans:
            raise ValueError("a name is taken twice")
        spans[key] = raw.begin, raw.end
        graph += _message(_TENSOR, data[field.begin : raw.start] + data[raw.end : field.end])
    return data[: graphs[0].start] + _message(_GRAPH, bytes(graph)) + data[graphs[0].end :], spans


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[_Field]:
    position = start
    while position < end:
        tag, begin = varint(data, position, end)
        wire, stop = tag & 7, begin
        if wire == _VARINT:
            _, stop = varint(data, begin, end)
        elif wire == _LENGTH_DELIMITED:
            length, begin = varint(data, begin, end)
            stop = begin + length
        elif wire in _FIXED_BYTES:
            stop = begin + _FIXED_BYTES[wire]
        else:
            raise ValueError(f"no such wire type: {wire}")
        if stop > end:
            raise ValueError("a field runs past the end")
        yield _Field(tag >> 3, position, begin, stop)
        position = stop


def _message(number: int, content: bytes) -> bytes:
    return _encoded(number << 3 | _LENGTH_DELIMITED) + _encoded(len(content)) + content


def _encoded(value: int) -> bytes:
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])
