"""Errors that teach: one line, which says what, where in the user's code, and what to do."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeai.errors import EdgeAIError, ExportError, InputError, SourceError
from edgeai.exporting import export, resolve

CODE = """import torch
from torch import nn

class Branching(nn.Module):
    def forward(self, x):
        if (x > 0).any():
            return x
        return -x
    def example_inputs(self):
        return {"x": torch.randn(3, 4)}

class Product(Branching):
    def forward(self, x):
        return x.cumprod(1)

class Fixed(Branching):
    dynamic_axes = {"x": {1: "width"}}
    def forward(self, x):
        return x.reshape(2, 6) * 2

class Failing(Branching):
    def forward(self, x):
        raise ValueError("no such mode")
"""


def one_line(tmp_path: Path, name: str) -> str:
    (tmp_path / "model.py").write_text(CODE)
    command = [sys.executable, "-m", "edgeai", "export", f"model.py:{name}", "-o", "m.onnx"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert "Traceback" not in done.stderr and not (tmp_path / "m.onnx").exists()
    return done.stderr.strip().splitlines()[-1]


def test_a_branch_on_values_through_the_command_line(tmp_path: Path) -> None:
    assert one_line(tmp_path, "Branching") == (
        "edgeai: error: m.onnx is not written: the module branches on the values of a tensor (model.py:6), so one "
        "trace cannot stand for it (write it with torch.where(condition, a, b), or decide it outside of forward)"
    )


def test_an_operator_that_is_missing_through_the_command_line(tmp_path: Path) -> None:
    line = one_line(tmp_path, "Product")
    assert "operator prims.prod (model.py:14) has no ONNX form; the TorchScript exporter fails too" in line
    assert "'aten::cumprod'" in line and line.endswith("(rewrite it with other operators)")


def refusal(tmp_path: Path, name: str) -> str:
    (tmp_path / "model.py").write_text(CODE)
    with pytest.raises(EdgeAIError) as caught:
        export(resolve(f"{tmp_path}/model.py:{name}"), out=tmp_path / "m.onnx")
    return str(caught.value)


@pytest.mark.parametrize("disabled", [False, True])
def test_an_axis_that_is_baked_in_is_named_with_input_and_line(
    disabled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in an application whose logging.config has disabled every logger that it did not name."""
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    monkeypatch.setattr(logger, "disabled", disabled)
    line = refusal(tmp_path, "Fixed")
    assert "axis width (axis 1 of input x) is fixed to 4 by the module's code (model.py:19): it is baked in; " in line
    assert line.endswith("(use tensor.shape in place of a number, or declare the axis as fixed)")
    assert logger.disabled is disabled


def test_an_axis_that_torchs_own_module_bakes_in_is_not_blamed_on_the_caller(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Unflatten(0, (2, 3)), nn.Linear(4, 2))
    with pytest.raises(
        ExportError, match=r"axis batch \(axis 0 of input input\) is fixed to 6 by the module's code: it"
    ):
        export(module, {"input": torch.randn(6, 4)}, out=tmp_path / "m.onnx", dynamic={"input": {0: "batch"}})


def test_a_module_that_raises_is_named_with_its_line(tmp_path: Path) -> None:
    assert "the module refuses x (3, 4) (model.py:23): ValueError: no such mode" in refusal(tmp_path, "Failing")


class Answering(nn.Module):
    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> Any:
        return self.answer


class Sum(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(3))


X = torch.randn(3, 4)


@pytest.mark.parametrize(
    ("module", "example", "kind", "message"),
    [
        (Answering("text"), {"x": X}, SourceError, r"returns str \('text'\) as its answer, not a tensor \(return"),
        (Answering({"n": {"m": 3}}), {"x": X}, SourceError, r"returns int \(3\) as n.m, not a tensor"),
        (Answering(None), {"x": X}, SourceError, "returns no tensor but None"),
        (Sum(), {"x": X, "z": X}, SourceError, r"Sum.forward\(x, y\) takes other inputs: no z and needs y \(name"),
        (Sum(), {"x": X, "y": 3.0}, SourceError, "input y is a float, not a tensor"),
        (Sum(), {"x": X, "y": X.to("meta")}, SourceError, "meta device has no values"),
        (nn.Linear(4, 2).to("meta"), {"input": X}, SourceError, r"Linear: weight is on the meta device.*\(load the"),
        (nn.Linear(5, 2), {"input": X}, InputError, r"refuses input \(3, 4\): RuntimeError: mat1 and mat2 shapes"),
    ],
)
def test_what_cannot_be_exported_says_why(
    module: nn.Module, example: dict[str, Any], kind: type[EdgeAIError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=message) as caught:
        export(module, example, out=tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_lazy_module_is_refused_and_stays_lazy(tmp_path: Path) -> None:
    module = lazy()
    with pytest.raises(SourceError, match=r"0.weight has no shape yet \(a lazy module\) \(run the module once"):
        export(module, {"input": X}, out=tmp_path / "m.onnx")
    assert isinstance(module[0], nn.LazyLinear)
    module(X)
    export(module, {"input": X}, out=tmp_path / "m.onnx")


class InPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x += 1
        return x * 2


def test_an_input_that_is_written_to_stays_an_input_and_the_example_is_not_touched(tmp_path: Path) -> None:
    from edgeai.runtime.loading import load

    x = torch.zeros(3, 4)
    artifact = export(InPlace(), {"x": x}, out=tmp_path / "m.onnx")
    assert not x.any()
    feed = {"x": np.full((2, 4), 2, np.float32)}
    with load(artifact.path, ep="cpu") as session:
        np.testing.assert_array_equal(session.run(feed)["output"], np.full((2, 4), 6))
    assert (feed["x"] == 2).all()


class Brain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(4, 4, 1).bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.convolution(x.bfloat16()[..., None])
        return answer.float()


def test_an_operator_without_a_kernel_for_its_dtype_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"bfloat16.*operator \(Conv\).*\(an operator has no kernel.*float32"):
        export(Brain(), {"x": X}, out=tmp_path / "m.onnx", dynamic={})
