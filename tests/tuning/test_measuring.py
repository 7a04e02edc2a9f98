"""Do no harm: a quantized file is measured against its source, and is kept only if that gained anything."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.bench import Workload
from edgeai.errors import QuantizationError, UsageError
from edgeai.machine import machine
from edgeai.progress import SILENT
from edgeai.quantization import Int8Dynamic
from edgeai.runtime.precise_sums import KEY, with_precise_sums
from edgeai.runtime.settings import SessionSettings
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


@pytest.mark.parametrize("harmless", [False, True])
def test_where_sums_would_be_clamped_a_spare_bit_is_measured_against_exact_kernels(
    harmless: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    haswell = dataclasses.replace(machine(), architecture="x86_64", features=("avx", "avx2", "fma"))
    for room in ("edgeai.tuning.automatic", "edgeai.tuning.budget", "edgeai.quantization.quantizing"):
        monkeypatch.setattr(f"{room}.machine", lambda: haswell)
    faster = {"int8-static full-range": 0.5, "int8-dynamic full-range": 0.9}
    ratios = {name: (ratio, ratio - 0.01, ratio + 0.01) for name, ratio in faster.items()}
    monkeypatch.setattr(automatic, "ratio_of", lambda report, name: ratios.get(name, (0.95, 0.94, 0.96)))
    random = np.random.default_rng(0)
    weight = random.uniform(0.9, 1.0, (64, 32)).astype(np.float32)
    if harmless:
        weight[::2] /= 100  # no two large ones stand side by side
    proto = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 20]> g (float[n, 64] x) => (float[n, 32] y) { y = MatMul(x, W) }'
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "W"))
    onnx.save(proto, tmp_path / "float.onnx")
    source = modelfile.open_artifact(tmp_path / "float.onnx")
    samples = Samples.from_rows({"x": random.uniform(2.0, 3.0, (40, 64)).astype(np.float32)})
    report = search(source, samples, out=tmp_path / "q.onnx", max_drop=0.01, resume=tmp_path / "found")
    names = [row.name for row in report.rows]
    if harmless:
        assert names == ["fp32", "int8-static", "int8-dynamic", "int8-dynamic full-range"], "static is full by itself"
        return
    assert names == ["fp32", "int8-static", "int8-dynamic", *faster]
    assert report.chosen == "int8-static full-range" and all(row.metric for row in report.rows[1:])
    options = modelfile.open_artifact(tmp_path / "q.onnx").lineage[-1].options
    assert options["reduce_range"] is False
    assert with_precise_sums(tmp_path / "q.onnx", SessionSettings(), on=haswell).config == {KEY: "1"}
    assert len(list((tmp_path / "found").iterdir())) == 4, "each search can be resumed"


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
