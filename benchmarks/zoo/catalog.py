"""Every architecture by name."""

from __future__ import annotations

from zoo import dense, sequence, tabular, vision
from zoo.subject import Architecture

OWN: tuple[Architecture, ...] = (*vision.ZOO, *dense.ZOO, *sequence.ZOO, *tabular.ZOO)


def everything() -> tuple[Architecture, ...]:
    """The zoo's own networks and those of the transformers library, which must be installed for this alone."""
    from zoo import hub

    return (*OWN, *hub.ZOO)
