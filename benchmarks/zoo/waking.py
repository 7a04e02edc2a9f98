"""Random weights under which a network lives: nothing dies out, nothing explodes, every branch changes the answer.

Fresh initial weights hide what an exporter gets wrong: biases and position embeddings start at zero, norms at one,
layer scales at 1e-6, and a graph without them gives the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

_MATRICES = (nn.Linear, _ConvNd, nn.RNNBase, nn.MultiheadAttention, nn.Bilinear)


def wake(module: nn.Module, example: Mapping[str, Tensor], *, seed: int = 0) -> None:
    """Draw every parameter anew and give batch norms the statistics of `example`, a little off."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            for name, parameter in part.named_parameters(recurse=False):
                if parameter.is_floating_point():
                    _draw(part, name, parameter, generator)
        _settle(module, example, generator)


def _draw(part: nn.Module, name: str, parameter: Tensor, generator: torch.Generator) -> None:
    if parameter.ndim == 0 or name == "original0":  # temperatures, and the norms of weight_norm, are alive as they are
        return
    center, spread = 0.0, 0.5  # tables: embeddings, positions, class tokens, queries
    if name.startswith("bias") and parameter.ndim <= 2:
        spread = 0.2
    elif name.startswith(("gamma", "layer_scale", "lambda")) or (parameter.ndim == 1 and name.startswith("weight")):
        center, spread = 1.0, 0.2
    elif isinstance(part, _ConvTransposeNd):
        spread = math.sqrt(math.prod(part.stride) / (parameter.shape[0] * math.prod(part.kernel_size)))
    elif type(part).__name__ == "Conv1D":  # the Linear of GPT-2, whose weight is transposed
        spread = 1 / math.sqrt(parameter.shape[0])
    elif isinstance(part, _MATRICES) or (name in ("weight", "original1") and not isinstance(part, nn.Embedding)):
        spread = 1 / math.sqrt(parameter[0].numel())
    parameter.copy_(center + spread * torch.randn(parameter.shape, generator=generator))


def _settle(module: nn.Module, example: Mapping[str, Tensor], generator: torch.Generator) -> None:
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    if not norms:
        return
    module.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    module(**example)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        assert norm.running_mean is not None and norm.running_var is not None
        deviation = norm.running_var.sqrt()
        norm.running_mean += 0.2 * deviation * torch.randn(deviation.shape, generator=generator)
        norm.running_var *= 0.7 + 0.7 * torch.rand(deviation.shape, generator=generator)
    module.eval()
