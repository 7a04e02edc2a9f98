"""Which other files an ONNX file refers to, and its metadata, read without the onnx package.

Follows the protobuf wire format (protobuf.dev, "Encoding") through the few messages of onnx.proto that can hold a
tensor, and skips all the rest, weights included.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from edgeai.errors import ModelFormatError, UnsafePathError

# message -> field number -> message inside (onnx.proto); other fields cannot lead to external data.
_MESSAGES: Mapping[str, Mapping[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}
_METADATA = 14  # Model.metadata_props
_NODES = {7: 1, 25: 7}  # Model.graph and Graph.node, Model.functions and Function.node
_NAME, _OP_TYPE = 3, 4  # of Node
_COMPILED = b"EPContext"
_DEEPEST = 100  # protobuf's own limit
_LENGTH_DELIMITED = 2
_FIXED_BYTES = {1: 8, 5: 4}


def external_files(path: str | Path) -> tuple[str, ...]:
    """Names of the files that hold the model's external data, as the model writes them, each once.

    Raises ModelFormatError if the file is missing or is not a protobuf message. ONNX Runtime's own format (`.ort`)
    carries all its data inside.
    """
    return tuple(_reach(path))


def _reach(path: str | Path) -> dict[str, int]:
    """`external_files`, and to which byte of each the model's tensors reach, as far as it says so."""
    try:
        with open(path, "rb") as stream:
            if os.fstat(stream.fileno()).st_size == 0:
                raise ModelFormatError(f"{path}: not an ONNX model (the file is empty)")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                if _is_ort_format(path, data):
                    return {}
                found: dict[str, int] = {}
                for name, end in _external(data, 0, len(data), "Model", _DEEPEST):
                    found[name] = max(end, found.get(name, 0))
                return found
    except OSError as error:
        raise ModelFormatError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ModelFormatError(f"{path}: not an ONNX model ({error})") from error


def refuse_outside(path: str | Path) -> tuple[str, ...]:
    """`external_files`, after checking that each is a whole, plain, singly linked file in the model's directory.

    Raises UnsafePathError or ModelFormatError naming the file that is not.
    """
    reach = _reach(path)
    directory = Path(path).parent
    for name, end in reach.items():
        parts = Path(name).parts
        if os.path.isabs(name) or ".." in parts or not parts or "\0" in name:
            raise UnsafePathError(f"{path}: refers to {name!r}, which lies outside its directory")
        if any(directory.joinpath(*parts[: i + 1]).is_symlink() for i in range(len(parts))):
            raise UnsafePathError(f"{path}: refers to {name!r}, which is a symbolic link")
        try:
            status = os.lstat(directory / name)
        except OSError as error:
            raise ModelFormatError(f"{path}: its data file {name} cannot be read ({error.strerror})") from error
        # A second link is a file elsewhere under another name.
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise UnsafePathError(f"{path}: refers to {name!r}, which is not a plain file of its own")
        if status.st_size < end:
            raise ModelFormatError(
                f"{path}: its data file {name} is cut off: it has {status.st_size:,} of {end:,} bytes",
                hint="copy it again",
            )
    return tuple(reach)


def compiled_nodes(path: str | Path) -> tuple[str, ...]:
    """Names of the EPContext nodes: code that some execution provider compiled. Nodes of subgraphs count as outermost.

    The name is empty for one that has none, and for those of a file that is not understood and yet speaks of them.
    What cannot be read has none: whoever opens the model says what is wrong with it.
    """
    try:
        with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if _is_ort_format(path, data):
                return ("in ONNX Runtime's own format",) if data.find(_COMPILED) >= 0 else ()
            try:
                return tuple(_compiled(data))
            except ValueError:  # protobuf's parser forgives what this one does not
                return ("",) if data.find(_COMPILED) >= 0 else ()
    except (OSError, ValueError):
        return ()


def metadata(path: str | Path) -> dict[str, str]:
    """The model's metadata; empty where there is none and for what is not an `.onnx` file.

    Whoever opens the model says what is wrong with it.
    """
    try:
        with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = {}
            for field, begin, end in _fields(data, 0, len(data)):
                if field == _METADATA:
                    entry = {number: data[start:stop].decode() for number, start, stop in _fields(data, begin, end)}
                    found[entry.get(1, "")] = entry.get(2, "")
            return found
    except (OSError, ValueError):
        return {}


def _external(data: mmap.mmap, start: int, end: int, message: str, depth: int) -> Iterator[tuple[str, int]]:
    """Where tensors lie: each location, and the byte after the last."""
    if not depth:
        raise ValueError("messages are nested too deep")
    locations: list[str] = []
    numbers = {b"offset": 0, b"length": 0}
    for field, begin, stop in _fields(data, start, end):
        kind = _MESSAGES[message].get(field)
        if kind == "Entry":
            strings = {number: data[i:j] for number, i, j in _fields(data, begin, stop)}
            key, value = strings.get(1, b""), strings.get(2, b"")
            if key == b"location":
                locations.append(value.decode())
            elif key in numbers:
                numbers[key] = int(value)
        elif kind:
            yield from _external(data, begin, stop, kind, depth - 1)
    for location in locations:  # more than one is an attempt to hide one
        yield location, sum(numbers.values())


def _is_ort_format(path: str | Path, data: mmap.mmap) -> bool:
    """ONNX Runtime goes by the name: what is called otherwise it reads as ONNX, whatever mark it bears."""
    return Path(path).suffix.lower() == ".ort" and data[4:8] == b"ORTM"


def _compiled(data: mmap.mmap) -> Iterator[str]:
    for field, start, stop in _fields(data, 0, len(data)):
        for _, begin, end in _only(data, start, stop, _NODES[field]) if field in _NODES else ():
            if data.find(_COMPILED, begin, end) >= 0 and _holds_compiled(data, begin, end, "Node", _DEEPEST):
                yield next((data[i:j].decode(errors="replace") for _, i, j in _only(data, begin, end, _NAME)), "")


def _holds_compiled(data: mmap.mmap, start: int, end: int, message: str, depth: int) -> bool:
    if not depth:
        raise ValueError("messages are nested too deep")
    for field, begin, stop in _fields(data, start, end):
        if message == "Node" and field == _OP_TYPE and data[begin:stop] == _COMPILED:
            return True
        kind = _MESSAGES[message].get(field)
        if kind in ("Graph", "Node", "Attribute") and _holds_compiled(data, begin, stop, kind, depth - 1):
            return True
    return False


def _only(data: mmap.mmap, start: int, end: int, number: int) -> Iterator[tuple[int, int, int]]:
    return (found for found in _fields(data, start, end) if found[0] == number)


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, begin, end) of each length-delimited field; the others are stepped over."""
    position = start
    while position < end:
        tag, position = varint(data, position, end)
        wire = tag & 7
        if wire == 0:
            _, position = varint(data, position, end)
            continue
        if wire == _LENGTH_DELIMITED:
            length, position = varint(data, position, end)
        elif wire in _FIXED_BYTES:
            length = _FIXED_BYTES[wire]
        else:
            raise ValueError(f"no such wire type: {wire}")
        if length > end - position:
            raise ValueError("a field runs past the end")
        if wire == _LENGTH_DELIMITED:
            yield tag >> 3, position, position + length
        position += length


def varint(data: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise ValueError("the file is truncated")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number is longer than 10 bytes")
