"""The state of an interrupted stage: one safetensors file, written whole or not at all.

Every random draw of the training loop is a function of the seed and the step, so no generator has to be saved.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edgeai.errors import TrainingError
from edgeai.storage import atomic_file


@dataclass(frozen=True)
class Position:
    """Where a stage stands: `key` tells which run it belongs to, `history` what was measured on the way."""

    key: str
    step: int = 0
    seconds: float = 0.0
    history: tuple[Mapping[str, float], ...] = ()


def save(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, position: Position) -> None:
    """Replace the checkpoint at `path`."""
    tensors = {f"module/{name}": tensor for name, tensor in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": value for name, value in state.items() if value is not None}
    metadata = {"position": json.dumps(vars(position))}
    with atomic_file(path, overwrite=True) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata)


def restore(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, key: str) -> Position:
    """Load what `save` wrote into `module` and `optimizer`; TrainingError if it belongs to another run."""
    try:
        with safe_open(path, framework="pt") as file:
            position = Position(**json.loads(file.metadata()["position"]))
            if position.key != key:
                raise TrainingError(
                    f"{path} belongs to a run with other settings", hint="use --overwrite to start again"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise TrainingError(f"{path} cannot be read: {error}", hint="use --overwrite to start again") from error
    module.load_state_dict(under("module", tensors))
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in under("optimizer", tensors).items():
        index, _, field = name.partition("/")
        state.setdefault(int(index), {})[field] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return Position(key, position.step, position.seconds, tuple(position.history))


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix + "/"): tensor for name, tensor in tensors.items() if name.startswith(prefix + "/")
    }
