"""Options that arrive as text or JSON, made into a frozen dataclass: unknown names and wrong types are refused."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from edgeai.errors import UsageError

T = TypeVar("T")


def from_mapping(cls: type[T], values: Mapping[str, object], what: str) -> T:
    """An instance of the dataclass `cls`. Numbers, booleans and None may come as text, as from a command line.

    Raises UsageError naming the option, with the nearest name if there is no such option. `what` says whose it is.
    """
    hints = get_type_hints(cls)
    arguments = {}
    for name, value in values.items():
        if name not in hints:
            raise UsageError(f"{what}: there is no option {name!r}", hint=nearest(name, hints))
        try:
            arguments[name] = _converted(value, hints[name])
        except (ValueError, TypeError, KeyError):
            raise UsageError(f"{what}: {name}={value!r} is not {_wanted(hints[name])}") from None
    return cls(**arguments)


def nearest(name: str, known: Collection[str]) -> str:
    """A hint for a name that is not known."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"there are: {', '.join(sorted(known)) or 'none'}"


def _converted(value: object, hint: Any) -> object:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):  # X | None; with a Literal it is a Union
        if value is None or value == "none":
            return None
        return _converted(value, next(kind for kind in inner if kind is not NoneType))
    if origin is Literal:
        if value in inner:
            return value
    elif origin is tuple:
        if isinstance(value, list | tuple) and all(isinstance(item, inner[0]) for item in value):
            return tuple(value)
    elif origin is Mapping:
        if isinstance(value, Mapping) and all(isinstance(item, str) for pair in value.items() for item in pair):
            return dict(value)
    elif hint is bool:
        words = {"true": True, "1": True, "false": False, "0": False}
        return value if isinstance(value, bool) else words[str(value).lower()]
    elif hint is int and not isinstance(value, bool | float):
        return int(str(value))
    elif hint is str and isinstance(value, str):
        return value
    raise TypeError


def _wanted(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) in (Union, UnionType):
        return " or ".join("none" if kind is NoneType else _wanted(kind) for kind in get_args(hint))
    return {int: "a whole number", bool: "true or false", str: "text"}.get(hint, "a list of names or a mapping of text")


def refuse_below(what: str, least: int, value: int | None) -> None:
    """Raise UsageError unless `value` is None or at least `least`."""
    if value is not None and value < least:
        raise UsageError(f"{what} = {value}, must be at least {least}")


def option(key: str, default: Any = None) -> Any:
    """A field of a provider's options: `key` is ONNX Runtime's name for it."""
    return dataclasses.field(default=default, metadata={"key": key})


def provider_values(options: object, *, yes: str = "1", no: str = "0") -> dict[str, str]:
    """A provider's options as ONNX Runtime takes them: key and text. Options that are None keep its own default.

    `yes` and `no` are how the provider spells a boolean. Fields without a key are edgeai's own.
    """
    values = {}
    for field in dataclasses.fields(options):  # type: ignore[arg-type]
        value = getattr(options, field.name)
        if value is not None and "key" in field.metadata:
            values[field.metadata["key"]] = (yes if value else no) if isinstance(value, bool) else str(value)
    return values
