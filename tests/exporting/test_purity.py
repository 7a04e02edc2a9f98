"""What an export leaves as it was, and what its file does not tell."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeai.errors import EdgeAIError
from edgeai.exporting import export


class Mixed(nn.Module):
    """Frozen parts, parts in eval mode, hooks, dropout: all of which a trainer has set up with care."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.head = nn.Linear(4, 2)
        self.body[1].eval()
        self.head.weight.requires_grad_(False)
        self.calls = 0
        self.head.register_forward_hook(lambda *_: None)
        self.head.register_forward_pre_hook(lambda *_: None)
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))  # type: ignore[no-any-return]


class Broken(Mixed):
    def forward(self, x: Tensor) -> Tensor:
        hidden = super().forward(x)
        return hidden if hidden.sum() > 0 else -hidden


def state(module: nn.Module) -> dict[str, object]:
    gc.collect()  # files that an earlier test left to it
    return {
        "modes": [part.training for part in module.modules()],
        "frozen": [parameter.requires_grad for parameter in module.parameters()],
        "gradients": [parameter.grad is None for parameter in module.parameters()],
        "hooks": [(len(part._forward_hooks), len(part._forward_pre_hooks)) for part in module.modules()],
        "values": [value.detach().numpy().tobytes() for value in module.state_dict().values()],
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": np.random.get_state()[1].tobytes(),  # type: ignore[union-attr,index]
        "grad mode": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }


@pytest.mark.parametrize("kind", [Mixed, Broken])
def test_the_module_and_the_process_are_left_as_they_were(kind: type[Mixed], tmp_path: Path) -> None:
    export(nn.Linear(4, 2), {"input": torch.randn(2, 4)}, out=tmp_path / "warm.onnx")  # opens what stays open
    module = kind()
    before = state(module)
    try:
        export(module, {"x": torch.ones(3, 4)}, out=tmp_path / "m.onnx")
        assert kind is Mixed
    except EdgeAIError:
        assert kind is Broken
    assert state(module) == before


CODE = """
import torch
from torch import nn

class SecretlyNamed(nn.Module):
    def __init__(self):
        super().__init__()
        self.recurrent = nn.GRU(4, 3, batch_first=True)
        self.by_name = nn.ModuleDict({name: nn.Linear(3, 2) for name in ("left", "middle")})
    def forward(self, x):
        hidden = self.recurrent(x)[0]
        return {name: part(hidden) for name, part in self.by_name.items() if name in {"left", "middle"}}
    def example_inputs(self):
        return {"x": torch.ones(2, 5, 4)}

class SecretlyTimed(SecretlyNamed):
    dynamic_axes = {"x": {0: "batch", 1: "time"}}
"""
EXPORT = """
import sys
from edgeai.exporting import export, resolve
for name in ("SecretlyNamed", "SecretlyTimed"):
    export(resolve(f"{sys.argv[1]}/hidden_file.py:{name}"), out=f"{sys.argv[1]}/{name}.{sys.argv[2]}")
"""


def test_the_files_tell_no_paths_and_are_the_same_in_another_process(tmp_path: Path) -> None:
    for seed in ("1", "2"):
        directory = tmp_path / f"private_directory_{seed}"
        directory.mkdir()
        (directory / "hidden_file.py").write_text(CODE)
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", EXPORT, str(directory), f"{seed}.onnx"]
        subprocess.run(command, env=environment, check=True, capture_output=True)
    secrets = ("hidden_file", "private_directory", 'File "', str(Path.home()) + "/", "site-packages", "def forward")
    for name, way in (("SecretlyNamed", "torch.export"), ("SecretlyTimed", "TorchScript")):
        first, second = tmp_path.glob(f"*/{name}.*.onnx")
        data = first.read_bytes()
        assert f'"exporter": "{way}"'.encode() in data
        assert not [secret for secret in secrets if secret.encode() in data]
        assert data == second.read_bytes()
