"""Axes that take multiples of a number alone, and axes that may be empty."""

from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeai.errors import ExportError, SourceError, VerificationError
from edgeai.exporting import export, resolve
from edgeai.exporting.tracing import _renamed, trace
from edgeai.spec import Axis, Signature, TensorSpec


class UNet(nn.Module):
    """Down by four and up again: the skip fits only where the height is a multiple of four."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        half = self.down(x)
        return nn.functional.interpolate(self.deep(half), scale_factor=2) + half


class Windows(nn.Module):
    """Swin's partition into windows of eight."""

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        windows = x.view(batch, channels, height // 8, 8, width // 8, 8).permute(0, 2, 4, 1, 3, 5)
        return windows.reshape(batch, -1, channels * 64)


def image(height: int) -> dict[str, Tensor]:
    return {"x": torch.randn(2, 3, height, 16, generator=torch.Generator().manual_seed(0))}


@pytest.mark.parametrize("height", [8, 32])
@pytest.mark.parametrize(("module", "size"), [(UNet(), "height//2"), (Windows(), "height//4")])
def test_a_module_that_takes_multiples_alone_is_proven_on_them(
    module: nn.Module, size: str, height: int, tmp_path: Path
) -> None:
    axes = {"x": {0: Axis("batch", 1, 4), 2: Axis("height", 1, 40, 8)}}
    artifact = export(module, image(height), out=tmp_path / "m.onnx", dynamic=axes)
    assert artifact.signature is not None and artifact.signature.axis("height") == Axis("height", 8, 40, 8)
    assert artifact.signature.inputs[0].shape == ("batch", 3, "height", 16)
    assert size in artifact.signature.outputs[0].shape
    assert artifact.lineage[0].options["verified"]["axes"] == {"batch": (1, 4), "height": (8, 40)}


def test_the_multiples_of_an_exported_program_are_read_off_it(tmp_path: Path) -> None:
    shapes = ({0: torch.export.Dim("n", min=1, max=4), 2: 8 * torch.export.Dim("_h", min=1, max=5)},)
    program = torch.export.export(Windows(), (image(16)["x"],), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "m.pt2")
    source = resolve(str(tmp_path / "m.pt2"))
    assert source.signature.inputs[0].shape == ("batch", 3, "x_2", 16)
    assert source.signature.axis("x_2") == Axis("x_2", 8, 40, 8)
    artifact = export(source, out=tmp_path / "m.onnx")
    # torch traced it at two windows or more, and the program's own guard refuses a single one.
    assert artifact.lineage[0].options["verified"]["axes"] == {"batch": (1, 4), "x_2": (16, 40)}


class Pair(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a.sum() + b


def test_sizes_that_depend_on_each_other_are_no_axes(tmp_path: Path) -> None:
    root = torch.export.Dim("_h", min=1, max=5)
    program = torch.export.export(
        Pair(), (torch.ones(16), torch.ones(8)), dynamic_shapes=({0: 4 * root}, {0: 2 * root})
    )
    torch.export.save(program, tmp_path / "m.pt2")
    with pytest.raises(SourceError, match=r"input b: axis 0 is 2\*s\d+, which is not a size of its own"):
        resolve(str(tmp_path / "m.pt2"))


def unproven(module: nn.Module, axis: Axis) -> ExportError:
    """What torch.export has against `axis` as the height."""
    signature = Signature((TensorSpec("x", "float32", ("batch", 3, axis.name, 16)),), (), (axis,))
    feed = {"x": image(32)["x"].numpy()}
    error = trace(module, signature, feed, opset=20).unproven
    assert error is not None
    return error


def test_what_torch_asks_for_is_said_in_our_own_words() -> None:
    error = unproven(Windows(), Axis("height", 20, 250))
    assert error.hint == "declare --dynamic x:2=height:24..248/8"
    assert "height = 8*_height" in error.message and "\n" not in str(error)


class Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], 3, 4, 8, 16).sum(2)


def test_the_code_that_fixes_an_axis_of_multiples_is_told_by_the_axis() -> None:
    message = unproven(Fixed(), Axis("height", 8, 64, 8)).message
    assert message.startswith("axis height") and "is fixed to 32 by the module's code" in message


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 20))
def test_a_renamed_size_is_the_same_size(multiple: int, times: int, count: int) -> None:
    names = {"s0": ("height", multiple), "s1": ("batch", 1)}
    for text in (f"{times}*s0", "s0", f"{times}*s0*s1", f"{times}*s0**2", f"{times}*s0 + s1", f"({times}*s0 - 1)//4"):
        renamed = _renamed(ir.SymbolicDim(text), names)
        sizes = {"height": multiple * count, "batch": 3}
        assert eval(str(renamed), sizes) == eval(text, {"s0": count, "s1": 3}), (text, renamed)
    assert _renamed(ir.SymbolicDim(f"{multiple}*s0"), {"s0": ("height", multiple)}) == "height"


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.attention(x, x, x)[0]
        return answer


def test_an_empty_batch_is_proven_where_it_is_declared(tmp_path: Path) -> None:
    axes = {"x": {0: Axis("batch", 0, 4)}}
    for name, module, example in (("a", Attention(), torch.randn(2, 5, 8)), ("b", UNet(), image(8)["x"])):
        artifact = export(module, {"x": example}, out=tmp_path / f"{name}.onnx", dynamic=axes)
        assert artifact.lineage[0].options["verified"]["axes"] == {"batch": (0, 4)}


def test_a_file_that_would_kill_its_process_at_an_empty_sequence_is_not_written(tmp_path: Path) -> None:
    axes = {"x": {1: Axis("length", 0, 8)}}
    try:
        artifact = export(Attention(), {"x": torch.randn(2, 5, 8)}, out=tmp_path / "m.onnx", dynamic=axes)
    except VerificationError as error:
        assert "the candidate refuses length=0" in str(error) and "ONNX Runtime dies of it (SIGFPE)" in str(error)
        assert not (tmp_path / "m.onnx").exists()
    else:  # an ONNX Runtime whose kernel does not divide by zero
        assert artifact.lineage[0].options["verified"]["axes"] == {"length": (0, 8)}
