"""What generic code needs to build, train, export and score a kind of model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgeai.errors import EdgeAIError, UsageError
from edgeai.spec import Signature, TensorSpec
from model_defs.recipe import Recipe, logits_of

Task = Literal["classification", "image-classification", "text-classification", "text-generation"]
Metric = Literal["accuracy", "perplexity"]


@dataclass(frozen=True)
class Family:
    """A kind of model and its sizes.

    `presets` names configurations: `tiny` for tests, `reference` for the demo, `base` for performance work.
    `build(config)` makes the deployed module; it takes the signature's inputs by name and returns the logits,
    alone or as the first of a tuple. `recipes` has an entry for each preset that can be trained.
    """

    name: str
    task: Task
    metric: Metric
    presets: Mapping[str, Any]
    build: Callable[[Any], nn.Module]
    signature: Callable[[Any], Signature]
    recipes: Mapping[str, Recipe]

    def config(self, preset: str) -> Any:
        """The configuration of that name, or UsageError."""
        if preset not in self.presets:
            raise UsageError(f"{self.name} has no preset {preset!r}", hint=f"choose one of {', '.join(self.presets)}")
        return self.presets[preset]

    def recipe(self, preset: str) -> Recipe:
        """How to train that preset, or UsageError if it exists for performance work alone."""
        self.config(preset)
        if preset not in self.recipes:
            raise UsageError(
                f"{self.name} {preset} has no training recipe", hint=f"train one of {', '.join(self.recipes)}"
            )
        return self.recipes[preset]

    def create(self, preset: str, seed: int = 0) -> nn.Module:
        """A module with random but lively weights, in eval mode: for export and performance work."""
        config = self.config(preset)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = self.build(config)
            return wake(module, example(self.signature(config), seed=seed))


def example(signature: Signature, *, batch: int = 8, seed: int = 0) -> dict[str, Tensor]:
    """Random inputs that fit `signature`: axis `batch` as asked, any other symbolic axis near its largest size."""
    generator = torch.Generator().manual_seed(seed)

    def tensor(spec: TensorSpec) -> Tensor:
        sizes = (size_of(axis) if isinstance(axis, str) else axis for axis in spec.shape)
        if spec.dtype.startswith("int"):
            low, high = spec.low or 0, 2 if spec.high is None else spec.high
            return torch.randint(low, high, tuple(sizes), generator=generator, dtype=getattr(torch, spec.dtype))
        return torch.randn(tuple(sizes), generator=generator, dtype=getattr(torch, spec.dtype))

    def size_of(axis: str) -> int:
        return batch if axis == "batch" else min(signature.axis(axis).maximum, 32)

    return {spec.name: tensor(spec) for spec in signature.inputs}


@torch.no_grad()
def wake(module: nn.Module, inputs: Mapping[str, Tensor]) -> nn.Module:
    """Give BatchNorm the statistics of real activations, and leave `module` in eval mode.

    Freshly made BatchNorm networks fade to outputs that hardly depend on the input, and then any two of them
    agree. Raises EdgeAIError if the standard deviation of the logits across samples is still at most 0.01.
    """
    module.eval()
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average, not an exponential one
        norm.train()
    if norms:
        module(**inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
    spread = float(logits_of(module(**inputs)).std(dim=0).mean())
    if not spread > 1e-2:
        raise EdgeAIError(f"{type(module).__name__} is dead: its logits vary by {spread:.1g} across inputs")
    return module
