"""The zoo's networks are awake, their files are right by a second opinion, and the page says what was measured."""

import importlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from edgeai.exporting import export

ROOT = Path(__file__).parents[1]
QUICK = (
    "squeezenet",
    "shufflenet_v2",
    "unet",
    "dcgan",
    "lstm_stream",
    "wide_and_deep",
    "pointnet",
    "gcn",
    "espcn",
    "gat",
)


@pytest.fixture(scope="module")
def zoo() -> Iterator[ModuleType]:
    """The benchmarks are scripts, not a package."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        yield importlib.import_module("zoo.catalog")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture
def subject(zoo: ModuleType, request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    return next(one for one in zoo.OWN if one.name == request.param).make()


@pytest.mark.parametrize("subject", QUICK, indirect=True)
def test_an_exported_file_is_right_by_a_second_opinion(subject, zoo: ModuleType, tmp_path: Path) -> None:
    recheck = importlib.import_module("zoo.recheck")
    out = tmp_path / "model.onnx"
    export(subject.module, subject.example, out=out, dynamic=subject.dynamic)
    found = recheck.recheck(out, partial(recheck.answer, subject.module), subject.example, subject.dynamic)
    assert found.right, found.finding
    assert found.feeds == 6


@pytest.mark.parametrize("subject", QUICK, indirect=True)
def test_every_parameter_moves_the_answer(subject, zoo: ModuleType) -> None:
    examination = importlib.import_module("zoo.examination")
    assert examination.idle(subject.module, subject.example) == []


@pytest.mark.parametrize("subject", ["gcn"], indirect=True)
def test_the_same_network_every_time(subject, zoo: ModuleType) -> None:
    again = next(one for one in zoo.OWN if one.name == "gcn").make()
    for a, b in zip(subject.module.parameters(), again.module.parameters(), strict=True):
        assert torch.equal(a, b)


class _Scaled(nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.by


@pytest.mark.parametrize(("by", "wrong"), [(2.0, ""), (2.01, "wrong values")])
def test_the_second_opinion_sees_what_is_wrong(by: float, wrong: str, zoo: ModuleType, tmp_path: Path) -> None:
    recheck, subjects = importlib.import_module("zoo.recheck"), importlib.import_module("zoo.subject")
    example, dynamic = {"x": torch.randn(2, 3)}, {"x": {0: subjects.BATCH}}
    out = tmp_path / "model.onnx"
    export(_Scaled(2.0), example, out=out, dynamic=dynamic)
    found = recheck.recheck(out, partial(recheck.answer, _Scaled(by)), example, dynamic)
    assert found.wrong == wrong
    assert onnxruntime.InferenceSession(str(out)).run(None, {"x": np.ones((1, 3), np.float32)})[0].shape == (1, 3)


def _page() -> ModuleType:
    spec = importlib.util.spec_from_file_location("export_page", ROOT / "scripts" / "export_page.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_the_results() -> None:
    text = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    assert _page().render(text) == text, "run: python scripts/export_page.py"


@pytest.mark.parametrize("name", ["export_zoo", "export_comparison"])
def test_every_row_of_the_results_stands_on_the_page(name: str) -> None:
    text = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    rows = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))["rows"]
    assert rows
    for row in rows:
        assert f"| {row['name']} |" in text
