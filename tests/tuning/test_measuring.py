"""Do no harm: a quantized file is measured against its source, and is kept only if that gained anything."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.bench import Workload
from edgeai.errors import QuantizationError, UsageError
from edgeai.progress import SILENT
from edgeai.quantization import Int8Dynamic
from edgeai.samples import Samples
from edgeai.tuning import automatic, measuring
from edgeai.tuning.automatic import AutoReport, Row, require_kept, search
from edgeai.tuning.measuring import Harm, measure_harm, quantize_measured


def test_what_is_measured_stands_in_the_lineage(exported: Callable[[str], Path], tmp_path: Path) -> None:
    source = modelfile.open_artifact(exported("transformer"))
    made, harm = quantize_measured(source, Int8Dynamic(), out=tmp_path / "q.onnx")
    assert harm is not None and harm.is_smaller
    step = modelfile.open_artifact(made.path).lineage[-1]
    assert step.tool == "measure"
    assert step.options["bytes"] == [source.path.stat().st_size, harm.bytes_after]
    assert 0 < harm.distance < 0.2 and harm.verdict in ("verified", "degraded")
    assert f"{harm.bytes_after / harm.bytes_before:.0%} of the size" in harm.summary


def test_a_copy_of_the_source_gains_nothing(exported: Callable[[str], Path], tmp_path: Path) -> None:
    source = modelfile.open_artifact(exported("mlp"))
    harm = measure_harm(source, source)
    assert not harm.is_smaller and harm.distance == 0.0 and harm.verdict == "verified"


def test_a_ratio_of_too_few_rounds_is_none(exported: Callable[[str], Path], tmp_path: Path) -> None:
    path = exported("mlp")
    (spec,) = modelfile.open_artifact(path).signature.inputs  # type: ignore[union-attr]
    shape = (4, *(axis if isinstance(axis, int) else 1 for axis in spec.shape[1:]))
    samples = Samples.from_rows({spec.name: np.zeros(shape, np.float32)})
    for rounds in (4, 5):
        workload = Workload(
            min_iterations=20, max_iterations=20, min_seconds=0, max_seconds=1, warmup_min_seconds=0,
            warmup_max_seconds=0.1, settle_seconds=0, rounds=rounds,
        )  # fmt: skip
        report = measuring.time_together({"fp32": path, "same": path}, samples, tmp_path, workload, SILENT)
        assert (measuring.ratio_of(report, "same") is None) == (rounds < 5)
        judged = automatic._measured("same", 1, report, None)
        assert judged.is_as_fast is False or rounds == 5, "what was not measured is not as fast"
        assert (report["same"].ratio is not None) and measuring.ratio_of(report, "fp32") is None


def test_neither_smaller_nor_faster_is_not_kept(
    exported: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = modelfile.open_artifact(exported("mlp"))
    slower = Harm(100, 100, (1.2, 1.1, 1.3), 0.01, "verified")
    assert not slower.is_faster
    assert Harm(100, 100, (0.8, 0.7, 0.9), 0.01, "verified").is_faster
    monkeypatch.setattr(measuring, "measure_harm", lambda *_, **__: slower)
    with pytest.raises(QuantizationError, match=r"neither smaller nor faster \(1\.20x the time"):
        quantize_measured(source, Int8Dynamic(), out=tmp_path / "q.onnx")
    assert not list(tmp_path.iterdir())
    quantize_measured(source, Int8Dynamic(), out=tmp_path / "q.onnx", force=True)
    assert (tmp_path / "q.onnx").is_file()


def test_auto_finds_a_form_within_the_budget_or_says_why_not(
    exported: Callable[[str], Path], trained: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "q.onnx"
    command = [sys.executable, "-m", "edgeai", "quantize", str(exported("cnn")), "-p", "auto", "-o", str(out)]
    scoring = Samples.load(trained("cnn") / "scoring.npz")
    scoring.take(slice(0, 120)).save(tmp_path / "few.npz")
    done = subprocess.run(
        [*command, "-d", str(tmp_path / "few.npz"), "--max-drop", "20%", "--force", "--json"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert set(rows) == {"fp32", "int8-static", "int8-dynamic"}
    kept = modelfile.open_artifact(out)
    assert kept.lineage[-1].tool == "quantize"
    assert rows["int8-static"]["metric"]["name"] == "accuracy"
    assert "judged by accuracy on 120 samples in three splits" in done.stderr


def test_a_recipe_that_is_named_is_kept_where_it_is_smaller(
    exported: Callable[[str], Path], trained: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = modelfile.open_artifact(exported("mlp"))
    scoring = Samples.load(trained("mlp") / "scoring.npz").take(slice(0, 80))
    monkeypatch.setattr(automatic, "ratio_of", lambda report, name: None if name == "fp32" else (1.3, 1.2, 1.4))
    report = search(source, scoring, out=tmp_path / "q.onnx", max_drop=1.0, recipes=[Int8Dynamic()])
    assert report.chosen == "int8-dynamic" and (tmp_path / "q.onnx").is_file()
    reasons = {row.name: row.reason for row in report.rows}
    assert reasons["fp32"] == "replaced by int8-dynamic, as asked"
    assert reasons["int8-dynamic"].startswith("kept as asked: slower than fp32: 1.30x")
    auto = search(source, scoring, out=tmp_path / "a.onnx", max_drop=1.0)
    assert auto.chosen == "fp32" and not (tmp_path / "a.onnx").exists()


def test_nothing_better_is_an_error_with_the_reasons() -> None:
    rows = (
        Row("fp32", 100, None, None, (), 0.0, "kept"),
        Row("int8-dynamic", 50, (1.3, 1.2, 1.4), None, (), 0.0, "slower"),
    )
    with pytest.raises(QuantizationError, match=r"the float file is the best form here \(int8-dynamic: slower\)"):
        require_kept(AutoReport("fp32", None, rows))


def test_refusals(exported: Callable[[str], Path], tmp_path: Path) -> None:
    source: Artifact = modelfile.open_artifact(exported("mlp"))
    rows = {spec.name: np.zeros((8, *(s for s in spec.shape[1:] if isinstance(s, int))), spec.dtype)
            for spec in (source.signature.inputs if source.signature else ())}  # fmt: skip
    with pytest.raises(UsageError, match="no output nothing"):
        search(source, Samples.from_rows(rows), out=tmp_path / "q.onnx", output="nothing")
