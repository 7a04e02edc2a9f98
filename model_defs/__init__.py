"""Reference models in PyTorch: six families, from their training data to a scored, exportable module.

To add one, write `NAME.py` that ends in `FAMILY = Family(...)` and put NAME into `NAMES`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, cast

from edgeai.errors import UsageError

if TYPE_CHECKING:
    from model_defs.families import Family

NAMES = ("mlp", "cnn", "resnet", "transformer", "bert", "gpt")


class _Families(Mapping[str, "Family"]):
    """Imports a family, and torch with it, when it is first looked up: names alone cost nothing."""

    def __getitem__(self, name: str) -> Family:
        if name not in NAMES:
            raise KeyError(name)
        return cast("Family", importlib.import_module(f"model_defs.{name}").FAMILY)

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def __len__(self) -> int:
        return len(NAMES)


FAMILIES: Mapping[str, Family] = _Families()


def family(name: str) -> Family:
    """The family of that name; UsageError with the nearest names if there is none."""
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES) or NAMES
        raise UsageError(f"there is no model family {name!r}", hint=f"did you mean {' or '.join(near)}?")
    return FAMILIES[name]
