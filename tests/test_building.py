"""`edgeai.build`: what it takes, what it refuses, and that what it leaves is what it says."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import edgeai
from edgeai.bench import Workload
from edgeai.building import TORCH, BuildReport, build
from edgeai.errors import DataError, ExistsError, ExportError, UsageError, VerificationError
from edgeai.tuning import BASELINE, Space, shipping, workbench

ROOT = Path(__file__).parents[1]
Paths = Callable[[str], Path]
QUICK = Workload(
    min_iterations=30, max_iterations=40, min_seconds=0, max_seconds=2, warmup_min_seconds=0,
    warmup_max_seconds=0.1, settle_seconds=0, rounds=5,
)  # fmt: skip

FEW = Space(("mha", "portable"), ("int8-dynamic", "int8-static"), settings=False, finalists=2)


def quick(source: object, samples: edgeai.Samples | None = None, *, out: Path, **more: object) -> BuildReport:
    """A build that measures little and takes the time it needs."""
    return build(source, samples, out=out, workload=QUICK, space=FEW, seconds=None, **more)  # type: ignore[arg-type]


class Log:
    """A `Progress` that remembers what was said."""

    def __init__(self) -> None:
        from edgeai.progress import SILENT

        self.lines: list[str] = []
        self.task = SILENT.task

    def log(self, message: str) -> None:
        self.lines.append(message)


def rows(n: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 16)).astype(np.float32)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


def test_a_module_with_two_inputs_and_a_dict_output_that_is_no_family(tmp_path: Path) -> None:
    source = f"{ROOT / 'examples' / 'own_model.py'}:TinyNet"
    out = tmp_path / "x.bundle"
    report = quick(source, out=out, init={"hidden": 8})
    assert report.verdict == "verified"
    assert [row.name for row in report.rows][:2] == [TORCH, BASELINE]
    assert "needs calibration samples" in report.row("int8-static portable").reason
    assert report.row("int8-dynamic portable").p50_ns is not None
    assert report.row(TORCH).p50_ns is not None
    assert os.listdir(tmp_path) == ["x.bundle"]
    with edgeai.load(out) as session:
        assert session.signature.input_names == ("frames", "category")
        assert session.signature.output_names == ("scores", "embedding")
        answer = session.run({"frames": np.zeros((5, 20, 16), np.float32), "category": np.arange(5)})
        assert answer["embedding"].shape == (5, 8)
        np.testing.assert_allclose(answer["scores"].sum(-1), 1, rtol=1e-4)


def test_a_module_in_memory_with_samples(tmp_path: Path) -> None:
    log = Log()
    out = tmp_path / "m.zip"
    report = quick(net(), edgeai.Samples.from_rows({"input": rows()}), out=out, progress=log)
    assert report.metric is None
    assert report.row(TORCH).p50_ns is None, "a module in memory cannot be timed in another process"
    assert report.row("int8-static portable").size_bytes is not None
    assert any("axis 0 of every input is taken to be the batch" in line for line in log.lines)
    assert any(report.row(report.chosen).reason in line for line in log.lines), "the choice is said"
    with edgeai.load(out) as session:
        x = rows(3, seed=5)
        expected = net()(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(session.run({"input": x})["output"], expected, atol=0.05)


def test_an_onnx_file_is_compared_with_itself(exported: Paths, tmp_path: Path) -> None:
    report = quick(str(exported("mlp")), out=tmp_path / "o.bundle")
    assert report.row(TORCH).reason == "not timed"
    assert report.row(BASELINE).verdict == "verified"


def test_the_report_survives_json(built: Paths) -> None:
    with edgeai.load(built("mlp")) as session:
        data = session.bundle.manifest["results"]["build"]
        tuned = session.bundle.manifest["results"]["tune"]
    report = BuildReport.from_json(data)
    assert [trial["name"] for trial in tuned["trials"]] == [row.name for row in report.rows[1:]]
    assert tuned["chosen"] == report.chosen and set(tuned["frontier"]) <= {row.name for row in report.rows}
    assert json.loads(json.dumps(report.to_json())) == data
    with pytest.raises(KeyError):
        report.row("int2")


def test_a_decoder_is_tried_in_place_and_keeps_its_batch_unasked(built: Paths) -> None:
    with edgeai.load(built("gpt")) as session:
        report = BuildReport.from_json(session.bundle.manifest["results"]["build"])
        assert session.signature.axis("batch").maximum > 1
    row = report.rows[-1]
    assert row.name.endswith(" in-place") and row.name != report.chosen
    assert row.verdict == "verified" and row.p50_ns is None, "the time of a text is no latency"


def test_a_form_beyond_the_budget_is_measured_but_not_kept(
    trained: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break the integer forms for real: all but a few weights' precision is thrown away."""
    import onnx_ir as ir

    from edgeai import modelfile

    def broken(*args: object, **kwargs: object) -> edgeai.Artifact:
        artifact = edgeai.quantize(*args, **kwargs)  # type: ignore[arg-type]
        model = modelfile.load(artifact.path)
        for value in model.graph.initializers.values():
            assert value.const_value is not None
            if value.const_value.dtype in (ir.DataType.INT8, ir.DataType.UINT8) and value.const_value.size > 100:
                flipped = np.ascontiguousarray(value.const_value.numpy()[::-1])
                value.const_value = ir.tensor(flipped, name=value.name)
        return modelfile.save(model, artifact, overwrite=True)

    monkeypatch.setattr(workbench, "quantize", broken)
    report = quick(str(trained("mlp")), out=tmp_path / "b.bundle")
    judged = [row for row in report.rows if row.name in ("int8-dynamic portable", "int8-static portable")]
    assert len(judged) == 2 and report.chosen not in [row.name for row in judged]
    for row in judged:
        assert row.verdict == "degraded"
        assert row.p50_ns is not None
        assert ("accuracy" in row.reason and "beyond 0.50%" in row.reason) or "slower than fp32" in row.reason


def test_a_form_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    class NoWeights(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(x) * 2

    row = quick(NoWeights(), edgeai.Samples.from_rows({"x": rows()}), out=tmp_path / "n.bundle").row(
        "int8-dynamic portable"
    )
    assert row.verdict == "not tried"
    assert row.reason.startswith("not possible: ")
    assert "/" not in row.reason, "the build's directory is gone when this is read"
    assert row.p50_ns is None


def test_a_bundle_that_does_not_repeat_its_answers_gets_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shipping.verify_bundle

    def lying(path: Path, *, ep: str) -> object:
        return dataclasses.replace(real(path, ep=ep), verdict="failed")

    monkeypatch.setattr(shipping, "verify_bundle", lying)
    with pytest.raises(VerificationError, match="does not repeat its own answers"):
        quick(net(), edgeai.Samples.from_rows({"input": rows()}), out=tmp_path / "b.bundle")
    assert not os.listdir(tmp_path)


class Dead(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), 3) + 0 * x[:, :3]


class Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("module", "samples", "error", "reason"),
    [
        (net(), edgeai.Samples.from_rows({"input": rows(2)}), UsageError, "2 samples cannot be split"),
        (net(), edgeai.Samples.from_rows({"input": np.repeat(rows(1), 9, 0)}), DataError, "stand in both sets"),
        (Dead(), edgeai.Samples.from_rows({"x": rows()}), VerificationError, "does not depend|depends on the input"),
        (Branches(), edgeai.Samples.from_rows({"x": rows()}), ExportError, "test_building.py"),
    ],
)
def test_what_cannot_be_built_is_explained_and_leaves_nothing(
    module: nn.Module, samples: edgeai.Samples, error: type[Exception], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=reason):
        quick(module, samples, out=tmp_path / "b.bundle")
    assert not os.listdir(tmp_path)


def test_what_is_wrong_is_said_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(ExistsError, match="--overwrite"):
        build("nonsense", out=tmp_path / "there")
    with pytest.raises(UsageError, match="no execution provider 'toaster'"):
        build("nonsense", out=tmp_path / "b", target="toaster")
    with pytest.raises(UsageError, match="no objective 'beauty'"):
        build("nonsense", out=tmp_path / "b", objective="beauty")
    with pytest.raises(UsageError, match="nothing of that name"):
        build("nonsense", out=tmp_path / "b")
