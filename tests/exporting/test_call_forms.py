"""All the ways in which a module may take its inputs and give its outputs."""

from collections import namedtuple
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeai.exporting import export
from edgeai.runtime.loading import load
from edgeai.spec import Axis

Pair = namedtuple("Pair", "first second")


@dataclass
class Record:
    score: Tensor
    parts: tuple[Tensor, Tensor]
    unused: None = None


class Nested(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return {"record": Record(x * 2, (x + 1, x - 1)), "pair": Pair(x.sum(1), [x.mean(1), {"deep": -x}])}


class Several(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return x * 2, (x + 1, None)


class KeywordOnly(nn.Module):
    def forward(self, x: Tensor, *, scale: Tensor, shift: float = 1.0, mask: Tensor | None = None) -> Tensor:
        shifted = x * scale + shift
        return shifted if mask is None else torch.where(mask, shifted, 0.0)


class Ids(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)

    def forward(self, ids: Tensor, flag: Tensor, offset: Tensor) -> Tensor:
        return torch.where(flag, self.embedding(ids.long()), 0.5) + offset


class Joined(nn.Module):
    """Takes a cache that may be empty."""

    def forward(self, x: Tensor, cache: Tensor) -> Tensor:
        return torch.cat([cache, x], dim=1).cumsum(1)


class Positional(nn.Module):
    def forward(self, *values: Tensor) -> Tensor:
        return values[0] - 2 * values[1]


def answers(module: nn.Module, example: Any, tmp_path: Path, **options: Any) -> Mapping[str, np.ndarray[Any, Any]]:
    artifact = export(module, example, out=tmp_path / "m.onnx", **options)
    feed = {name: value.numpy() for name, value in example.items()}
    with load(artifact.path, ep="cpu") as session:
        assert session.signature == artifact.signature
        return session.run(feed)


X = torch.randn(3, 4)


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (Nested(), ["record.score", "record.parts.0", "record.parts.1", "pair.first", "pair.second.0",
                    "pair.second.1.deep"]),
        (Several(), ["output.0", "output.1.0"]),
    ],
)  # fmt: skip
def test_nested_outputs_have_names_that_say_where_they_stood(
    module: nn.Module, names: list[str], tmp_path: Path
) -> None:
    found = answers(module, {"x": X}, tmp_path)
    assert list(found) == names
    np.testing.assert_allclose(found[names[0]], 2 * X.numpy(), rtol=1e-6)


def test_keyword_only_inputs_and_defaults_that_are_left_out(tmp_path: Path) -> None:
    scale = torch.tensor(3.0)
    found = answers(KeywordOnly(), {"x": X, "scale": scale}, tmp_path, dynamic={"x": {0: "batch"}})
    np.testing.assert_allclose(found["output"], X.numpy() * 3 + 1, rtol=1e-5)
    (tmp_path / "m.onnx").unlink()
    mask = torch.rand(3, 4) > 0.5
    axes = {"x": {0: "batch"}, "mask": {0: "batch"}}
    masked = answers(KeywordOnly(), {"x": X, "scale": scale, "mask": mask}, tmp_path, dynamic=axes)
    np.testing.assert_allclose(masked["output"], np.where(mask, found["output"], 0), rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_integers_booleans_and_scalars(dtype: torch.dtype, tmp_path: Path) -> None:
    module = Ids()
    example = {"ids": torch.tensor([[1, 2, 9]] * 2, dtype=dtype), "flag": torch.tensor(True), "offset": torch.tensor(2)}
    found = answers(module, example, tmp_path, dynamic={"ids": {0: "batch", 1: "length"}})
    np.testing.assert_allclose(found["output"], module(**example).detach().numpy(), rtol=1e-5)


def test_an_axis_may_be_empty_where_the_module_takes_that(tmp_path: Path) -> None:
    axes = {"x": {0: "batch", 1: "new"}, "cache": {0: "batch", 1: Axis("past", 0, 16)}}
    example = {"x": torch.randn(2, 3, 4), "cache": torch.randn(2, 0, 4)}
    found = answers(Joined(), example, tmp_path, dynamic=axes)
    np.testing.assert_allclose(found["output"], example["x"].cumsum(1).numpy(), rtol=1e-5)


def test_positional_inputs_without_names_of_their_own(tmp_path: Path) -> None:
    found = answers(Positional(), {"a": X, "b": X + 1}, tmp_path)
    np.testing.assert_allclose(found["output"], (-X - 2).numpy(), rtol=1e-5, atol=1e-5)
