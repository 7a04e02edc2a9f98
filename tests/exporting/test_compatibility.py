"""Which opset and IR version stand in a file: the ones asked for, the ones an old runtime opens, or an error."""

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

import edgeai
from edgeai.errors import ExportError, UsageError
from edgeai.exporting import export, resolve
from edgeai.exporting.compatibility import limits


class Convolved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.relu(self.norm(self.convolution(x))).mean((2, 3))).softmax(1)  # type: ignore[no-any-return]


class Gelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(x)


IMAGE = {"x": torch.randn(2, 3, 8, 8)}


def written(path: Path) -> tuple[int, int]:
    """(opset, IR version)"""
    model = onnx.load(path)
    return next(entry.version for entry in model.opset_import if not entry.domain), model.ir_version


@pytest.mark.parametrize("opset", [7, 9, 13, 17, 24, 26])
def test_the_opset_asked_for_is_written(opset: int, tmp_path: Path) -> None:
    artifact = export(Convolved(), IMAGE, out=tmp_path / "m.onnx", dynamic={"x": {0: "batch"}}, opset=opset)
    assert written(artifact.path)[0] == opset
    options = artifact.lineage[0].options
    assert options["exporter"] == ("TorchScript" if opset < 14 else "torch.export")
    assert options["verified"]["axes"] == {"batch": (1, 64)}


def test_an_opset_newer_than_the_exporter_s_is_reached_by_conversion(tmp_path: Path) -> None:
    artifact = export(Gelu(), {"x": torch.randn(2, 3)}, out=tmp_path / "m.onnx", opset=26)
    assert written(artifact.path)[0] == 26
    assert artifact.lineage[0].options["exporter"] == "torch.export"


def test_an_opset_that_no_exporter_reaches_is_one_line_with_both_reasons(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        export(Gelu(), {"x": torch.randn(2, 3)}, out=tmp_path / "m.onnx", opset=8)
    first, second = caught.value.message.split("; ")
    assert "what torch.export writes at opset 18 cannot be converted to opset 8" in first
    assert "Gelu is captured by TorchScript, but ONNX Runtime cannot open it" in second
    assert "an opset nearer to 18" in caught.value.hint
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("release", "opset", "ir_version"),
    [("1.0", 11, 6), ("1.10.0", 15, 7), ("1.14", 18, 8), ("1.17", 20, 9), ("1.17.3", 20, 9), ("1.20", 21, 10),
     ("1.22", 22, 10), ("1.23", 23, 11), ("1.25", 25, 13), ("1.31", 26, 13), ("1.32", 26, 13)],
)  # fmt: skip
def test_what_a_release_opens(release: str, opset: int, ir_version: int) -> None:
    found = limits(release)
    assert (found.opset, found.ir_version) == (opset, ir_version)


@pytest.mark.parametrize("release", ["0.5", "1.33", "2.0", "1", "latest", "", "1.x"])
def test_a_release_that_is_not_known_is_refused_with_the_range(release: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"name a release from 1.0 to 1.32"):
        export(Convolved(), IMAGE, out=tmp_path / "m.onnx", target_ort=release)


@pytest.mark.parametrize(("release", "expected"), [("1.8", (14, 7)), ("1.16", (19, 9))])
def test_a_default_opset_is_lowered_for_an_old_runtime_aloud(
    release: str, expected: tuple[int, int], tmp_path: Path, log: Any
) -> None:
    artifact = export(Convolved(), IMAGE, out=tmp_path / "m.onnx", target_ort=release, progress=log)
    assert written(artifact.path) == expected
    assert f"opset {expected[0]} in place of 20: ONNX Runtime {release} opens no newer one" in log.said
    assert (artifact.lineage[0].options["opset"], artifact.lineage[0].options["ir_version"]) == expected


def test_an_explicit_opset_above_the_runtime_s_is_refused_with_the_largest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"opset 21 .* ONNX Runtime 1.17 \(the newest that it opens is opset 20\)"):
        export(Convolved(), IMAGE, out=tmp_path / "m.onnx", opset=21, target_ort="1.17")
    artifact = export(Convolved(), IMAGE, out=tmp_path / "m.onnx", opset=18, target_ort="1.17")
    assert written(artifact.path) == (18, 9)


def test_a_decoder_is_lowered_too(tmp_path: Path) -> None:
    artifact = export(resolve("gpt:tiny"), out=tmp_path / "gpt.onnx", target_ort="1.17")
    assert written(artifact.path) == (20, 9)


def test_an_onnx_file_is_converted_down_with_parity_or_refused(tmp_path: Path) -> None:
    new = export(Convolved(), IMAGE, out=tmp_path / "new.onnx", opset=21).path
    artifact = export(resolve(str(new)), out=tmp_path / "old.onnx", target_ort="1.17")
    assert written(artifact.path) == (20, 9)
    assert edgeai.verify(new, artifact).verdict == "verified"
    with pytest.raises(ExportError, match=r"new.onnx at opset 21 cannot be converted to opset 13: No Adapter"):
        export(resolve(str(new)), out=tmp_path / "older.onnx", target_ort="1.6")
    assert not (tmp_path / "older.onnx").exists()


def test_functions_need_the_ir_version_that_has_them(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 15, "own" : 1]>
    g (float[batch,4] x) => (float[batch,4] y) { y = own.twice(x) }
    <domain: "own", opset_import: ["" : 15]> twice (a) => (b) { b = Add(a, a) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    kept = export(resolve(str(tmp_path / "m.onnx")), out=tmp_path / "n.onnx", target_ort="1.11")
    assert [function.name for function in onnx.load(kept.path).functions] == ["twice"]
    with pytest.raises(ExportError, match=r"functions of its own, which need IR version 8: ONNX Runtime 1.9 opens 7"):
        export(resolve(str(tmp_path / "m.onnx")), out=tmp_path / "o.onnx", target_ort="1.9")
