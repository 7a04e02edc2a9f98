"""What one architecture of the zoo is: a module that is awake, one example of its inputs, the axes that may change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeai.spec import Axis
from zoo.waking import wake

Example = dict[str, Tensor]
Dynamic = Mapping[str, Mapping[int, Axis]]


@dataclass(frozen=True)
class Subject:
    """Integer inputs take the values from 0 to the largest one in `example`."""

    module: nn.Module
    example: Example
    dynamic: Dynamic


@dataclass(frozen=True)
class Architecture:
    """The docstring of `maker` cites the paper."""

    name: str
    style: str
    maker: Callable[[], Subject]

    @property
    def paper(self) -> str:
        return (self.maker.__doc__ or "").strip().rstrip(".")

    def make(self) -> Subject:
        """Built anew, the same every time."""
        return seeded(self.maker)


def seeded(maker: Callable[[], Subject]) -> Subject:
    """What waking leaves as it was made (the norms of weight_norm) must not depend on what ran before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return maker()


def named(style: str, *makers: Callable[[], Subject]) -> tuple[Architecture, ...]:
    return tuple(Architecture(make.__name__, style, make) for make in makers)


def axis(name: str, low: int, high: int, multiple: int = 1) -> Axis:
    return Axis(name, low, high, multiple)


BATCH = axis("batch", 1, 16)


def awake(module: nn.Module, example: Example, dynamic: Dynamic) -> Subject:
    wake(module, example)
    return Subject(module.eval(), example, dynamic)


def of_images(
    module: nn.Module, shape: tuple[int, int, int] = (3, 48, 48), *, sides: tuple[int, int, int] | None = None,
    name: str = "x",
) -> Subject:  # fmt: skip
    """One image input with a dynamic batch; `sides` makes height and width dynamic too: low, high, multiple."""
    example = {name: normal(2, *shape)}
    axes = {0: BATCH}
    if sides is not None:
        axes |= {2: axis("height", *sides), 3: axis("width", *sides)}
    return awake(module, example, {name: axes})


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def integers(high: int, *shape: int, seed: int = 0) -> Tensor:
    """Values of 0 to high - 1, both ends among them."""
    drawn = torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))
    drawn.view(-1)[0], drawn.view(-1)[-1] = 0, high - 1
    return drawn


def padded(*lengths: int) -> Tensor:
    """A mask of 1 and 0: each row as long as it says, padded on the right to the longest."""
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
