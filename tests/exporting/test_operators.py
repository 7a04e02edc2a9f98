"""Modules that exporters get wrong, each with the way by which it is exported all the same."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeai.errors import ExportError, VerificationError
from edgeai.exporting import export
from edgeai.spec import Axis


class Function(nn.Module):
    """A function of x and a module as a module."""

    def __init__(self, function: Callable[..., Any], *parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Any:
        return self.function(x, *self.parts)


class Masked(nn.Module):
    """torch.nn.Transformer with the mask that everybody writes: it compares it with a causal one, on values."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        size = target.shape[1]
        mask = torch.triu(torch.full((size, size), float("-inf")), diagonal=1)
        answer: Tensor = self.transformer(source, target, tgt_mask=mask)
        return answer


SEQUENCE = {"x": {0: "batch", 1: Axis("time", 3, 40)}}
IMAGE = {"x": {0: "batch", 2: Axis("height", 8, 40), 3: Axis("width", 8, 40)}}


def proven(module: nn.Module, example: Mapping[str, Tensor], axes: Any, tmp_path: Path) -> Mapping[str, Any]:
    """The lineage's options, of an export whose every declared axis was proven from end to end."""
    artifact = export(module, example, out=tmp_path / "m.onnx", dynamic=axes)
    options = artifact.lineage[0].options
    declared = {axis.name: axis for axis in artifact.signature.axes} if artifact.signature else {}
    for name, (low, high) in options["verified"]["axes"].items():
        assert (low, high) == (declared[name].minimum, declared[name].maximum)
    return options


def test_a_transformer_with_a_mask_that_is_made_in_forward(tmp_path: Path) -> None:
    example = {"source": torch.randn(2, 5, 8), "target": torch.randn(2, 4, 8)}
    axes = {"source": {0: "batch", 1: "from"}, "target": {0: "batch", 1: "to"}}
    assert proven(Masked(), example, axes, tmp_path)["exporter"] == "torch.export"
    assert nn.modules.transformer._detect_is_causal_mask.__module__ == "torch.nn.modules.transformer"


@pytest.mark.parametrize(
    ("function", "x", "axes"),
    [
        (lambda x: functional.max_pool2d(x, 3, 2, 1, ceil_mode=True), torch.randn(2, 3, 16, 20), IMAGE),
        (lambda x: x.unfold(1, 3, 2), torch.randn(2, 7, 8), SEQUENCE),
    ],
    ids=["pooling with ceil_mode", "windows"],
)
def test_a_guard_that_torch_cannot_prove_is_proven_by_running(
    function: Callable[[Tensor], Tensor], x: Tensor, axes: Any, tmp_path: Path
) -> None:
    assert proven(Function(function), {"x": x}, axes, tmp_path)["exporter"] == "torch.export"


def test_a_guard_that_does_not_hold_everywhere_is_an_error(tmp_path: Path) -> None:
    halves = Function(lambda x: x.reshape(x.shape[0], x.shape[1] // 2, 2).sum(2))
    with pytest.raises(ExportError, match="does not take the declared axes as they are"):
        export(halves, {"x": torch.randn(2, 8)}, out=tmp_path / "m.onnx", dynamic={"x": {1: "width"}})
    assert not list(tmp_path.iterdir())


def packed(x: Tensor, lstm: nn.Module) -> Tensor:
    lengths = torch.full((x.shape[0],), x.shape[1], dtype=torch.int64)
    sequence = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    answer: Tensor = nn.utils.rnn.pad_packed_sequence(lstm(sequence)[0], batch_first=True)[0]
    return answer


@pytest.mark.parametrize(
    ("function", "part"),
    [
        (lambda x, part: part(x)[0], nn.LSTM(8, 6, num_layers=2, batch_first=True, bidirectional=True)),
        (lambda x, part: part(x)[1], nn.GRU(8, 6, batch_first=True)),
        (packed, nn.LSTM(8, 6, batch_first=True)),
    ],
    ids=["bidirectional", "states", "packed"],
)
def test_recurrent_networks_keep_batch_and_time_by_way_of_torchscript(
    function: Callable[..., Tensor], part: nn.Module, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = proven(Function(function, part), {"x": torch.randn(2, 7, 8)}, SEQUENCE, tmp_path)
    assert options["exporter"] == "TorchScript" and options["reason"]
    assert capfd.readouterr() == ("", "")


class HalfConvolution(nn.Module):
    """torch.export's converter writes the sum as float32, which the module does not give."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3).half()

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(x).cumsum(1)  # type: ignore[no-any-return]


def test_a_graph_of_the_wrong_dtype_gives_way_to_torchscripts(tmp_path: Path) -> None:
    options = proven(HalfConvolution(), {"x": torch.randn(2, 3, 8, 8).half()}, {"x": {0: "batch"}}, tmp_path)
    assert options["exporter"] == "TorchScript" and "changed dtype" in options["reason"]


def test_what_both_exporters_get_wrong_is_said_with_both_reasons(tmp_path: Path) -> None:
    pooled = Function(lambda x: functional.adaptive_avg_pool2d(x, (2, 2)))
    with pytest.raises(VerificationError) as caught:
        export(pooled, {"x": torch.randn(2, 3, 16, 20)}, out=tmp_path / "m.onnx", dynamic=IMAGE)
    first, second = caught.value.message.split("; ")
    assert "m.onnx is not written: Function by way of torch.export failed verification" in first
    assert "the TorchScript exporter fails too" in second and "adaptive" in second
    assert not list(tmp_path.iterdir())
