"""Command-line options made from the fields of dataclasses, so that an option exists exactly where a field does."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

import click

from edgeai.errors import UsageError


def options_of(kinds: Mapping[str, type]) -> list[click.Option]:
    """One option for each field name of the dataclasses; its help says which of them have it, and the defaults."""
    owners: dict[str, dict[str, Any]] = {}
    click_types: dict[str, tuple[Any, bool]] = {}
    for kind_name, kind in kinds.items():
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            owners.setdefault(field.name, {})[kind_name] = field.metadata.get("unset", field.default)
            click_types[field.name] = _click_type(hints[field.name])
    options = []
    for name, defaults in owners.items():
        kind_of, multiple = click_types[name]
        flag = name.replace("_", "-")
        declaration = f"--{flag}/--no-{flag}" if kind_of is bool else f"--{flag}"
        said = ", ".join(f"{owner}: {_shown(default)}" for owner, default in defaults.items())
        options.append(
            click.Option(
                [declaration], type=None if kind_of is bool else kind_of, default=None, multiple=multiple,
                help=f"Defaults: {said}.",
            )
        )  # fmt: skip
    return options


def construct(kinds: Mapping[str, type], name: str, given: Mapping[str, Any]) -> Any:
    """The dataclass called `name` with the options that were given.

    Raises UsageError for an option that it does not have: nothing is ignored.
    """
    kind = kinds[name]
    chosen = {key: value for key, value in given.items() if value is not None and value != ()}
    known = {field.name for field in dataclasses.fields(kind)}
    if unknown := sorted(chosen.keys() - known):
        flags = ", ".join("--" + key.replace("_", "-") for key in unknown)
        has = ", ".join("--" + key.replace("_", "-") for key in sorted(known)) or "none"
        raise UsageError(f"{name} has no option {flags}", hint=f"its options: {has}")
    return kind(**{key: tuple(value) if isinstance(value, list | tuple) else value for key, value in chosen.items()})


def _click_type(hint: Any) -> tuple[Any, bool]:
    """The click type of a field, and whether the option is repeatable."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _click_type(next(part for part in arguments if part is not type(None)))
    if origin is typing.Literal:
        return click.Choice([str(value) for value in arguments]), False
    if origin is tuple:
        return arguments[0], True
    return hint, False


def _shown(default: Any) -> str:
    if default is None:
        return "by the target"
    return " ".join(default) or "none" if isinstance(default, tuple) else str(default)
