"""How far tuning looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeai.errors import UsageError
from edgeai.runtime.providers import available, refuse_unavailable, resolve

# The others build engines for minutes, or compute in half precision: only when asked for.
_TRIED = ("cpu", "cuda", "directml", "openvino")


@dataclass(frozen=True)
class Space:
    """What may be tried. No forms are all forms, None for recipes those that may win on each provider.

    `settings` tries switched-off fusions, fewer threads, no spinning, no arena, bfloat16 and huge pages on the best
    files; `finalists` is how many of those are looked at that closely. `cache_in_place`: a decoder may end up taking
    one text at a time.
    """

    forms: tuple[str, ...] = ()
    recipes: tuple[str, ...] | None = None
    providers: tuple[str, ...] = ("cpu",)
    settings: bool = True
    finalists: int = 3
    cache_in_place: bool = False

    def __post_init__(self) -> None:
        if self.finalists < 1:
            raise UsageError(f"tuning: finalists must be at least 1, got {self.finalists}")


def providers_here(ep: str | Sequence[str]) -> tuple[str, ...]:
    """The named providers, or for "auto" those that run on this machine and answer like the CPU.

    Raises UsageError for an unknown name, ProviderError for one that does not load.
    """
    if ep in ("auto", ["auto"]):
        here = available()
        return tuple(name for name in _TRIED if name in here and here[name] is None)
    names = resolve(ep)
    for name in names:
        refuse_unavailable(name)
    return names
