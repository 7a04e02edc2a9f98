"""Frozen dataclasses from plain JSON data, by their annotations, and those annotations as a JSON Schema."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def decoded(cls: type[T], data: Any) -> T:
    """An instance of the dataclass `cls`. Raises TypeError, KeyError or ValueError for data that does not fit."""
    value: T = _value(cls, data)
    return value


def json_schema(cls: type) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of what `dataclasses.asdict` gives for `cls`: every field, and nothing else."""
    definitions: dict[str, Any] = {}
    root = _schema(cls, definitions)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **root, "$defs": definitions}


def _value(kind: Any, data: Any) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        if set(data) != set(hints):
            raise KeyError(f"{getattr(kind, '__name__', kind)}: {', '.join(sorted(set(data) ^ set(hints)))}")
        return kind(**{name: _value(hints[name], value) for name, value in data.items()})  # type: ignore[operator]
    if origin in (types.UnionType, Union):
        return None if data is None else _value(next(part for part in inner if part is not types.NoneType), data)
    if origin is tuple:
        if not isinstance(data, list | tuple):
            raise TypeError(f"{data!r} is not a list")
        return tuple(_value(inner[0], item) for item in data)
    if origin in (dict, Mapping):
        return {str(key): _value(inner[1], value) for key, value in data.items()}
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return data
    if kind is not Any and not (isinstance(data, kind) and (kind is bool or not isinstance(data, bool))):
        raise TypeError(f"{data!r} is not {kind.__name__}")
    return data


def _schema(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, inner = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        name = kind.__name__  # type: ignore[union-attr]
        if name not in definitions:
            definitions[name] = {}  # named before its fields, should one of them refer to it
            hints = get_type_hints(kind)
            definitions[name] |= {
                "type": "object",
                "description": (kind.__doc__ or "").strip().split("\n")[0],
                "properties": {field: _schema(hint, definitions) for field, hint in hints.items()},
                "required": list(hints),
                "additionalProperties": False,
            }
        return {"$ref": f"#/$defs/{name}"}
    if origin in (types.UnionType, Union):
        return {"anyOf": [{"type": "null"} if part is types.NoneType else _schema(part, definitions) for part in inner]}
    if origin is tuple:
        return {"type": "array", "items": _schema(inner[0], definitions)}
    if origin in (dict, Mapping):
        return {"type": "object", "additionalProperties": _schema(inner[1], definitions)}
    names = {str: "string", bool: "boolean", int: "integer", float: "number"}
    return {} if kind is Any else {"type": names[kind]}
