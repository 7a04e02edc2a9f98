"""`edgeai.tune`, for real: on a small reference model, through the command line, interrupted and resumed."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import edgeai
from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.bench import Workload
from edgeai.errors import DataError, ExistsError, InputError, StorageError, UsageError
from edgeai.metrics import METRICS
from edgeai.modelfile import open_artifact
from edgeai.quantization import Int8Dynamic
from edgeai.tuning import OBJECTIVES, Space, tune, workbench
from edgeai.tuning.candidates import Plan, Point, plans, rescues
from edgeai.tuning.countdown import Countdown, said
from edgeai.tuning.data import Data
from edgeai.tuning.journal import Journal
from edgeai.tuning.objective import Figures
from edgeai.tuning.timing import measure_points, most_together, save_inputs, scaled
from edgeai.tuning.workbench import Workbench, fired_fusions

Paths = Callable[[str], Path]
QUICK = Workload(
    min_iterations=30, max_iterations=40, min_seconds=0, max_seconds=1, warmup_min_seconds=0,
    warmup_max_seconds=0.1, settle_seconds=0, rounds=5,
)  # fmt: skip
FEW = Space(forms=("mha",), recipes=("int8-dynamic",), settings=False)


def scoring(trained: Path, count: int = 60) -> edgeai.Samples:
    return edgeai.Samples.load(trained / "scoring.npz").take(slice(0, count))


def test_a_model_becomes_a_bundle_that_says_how_it_was_chosen(exported: Paths, trained: Paths, tmp_path: Path) -> None:
    space = Space(forms=("mha",), recipes=("int8-dynamic",), finalists=2)
    out = tmp_path / "t.bundle"
    report = tune(
        exported("transformer"), scoring(trained("transformer")), out=out, max_drop=0.2, space=space, seconds=None,
        workload=QUICK,
    )  # fmt: skip
    assert report.metric == "accuracy"
    names = [trial.name for trial in report.trials]
    assert names[0] == "fp32" and {"fp32 mha", "int8-dynamic mha"} <= set(names)
    assert report.chosen.reason.startswith("kept")
    with edgeai.load(out) as session:
        manifest = session.bundle.manifest
        assert session.settings == report.chosen.point.settings, "the runtime uses what was tuned"
    kept = manifest["results"]["tune"]
    assert kept["chosen"] == report.chosen.name and kept["frontier"] == list(report.frontier)
    assert [trial["name"] for trial in kept["trials"]] == names
    assert manifest["results"]["agreement"]["verdict"] == "verified"
    assert manifest["results"]["speed"]["p50_ns"] > 0
    assert json.loads(json.dumps(report.to_json()))["trials"][0]["name"] == "fp32"
    figures = report.trials[0].figures
    assert figures is not None and figures.effort >= 1.0 and figures.memory_bytes and figures.runs_per_second


def test_the_command(exported: Paths, trained: Paths, tmp_path: Path) -> None:
    scoring(trained("mlp")).save(tmp_path / "s.npz")
    command = [
        sys.executable, "-m", "edgeai", "tune", str(exported("mlp")), "-d", str(tmp_path / "s.npz"), "-o",
        str(tmp_path / "m.bundle"), "--max-drop", "50%", "--time-budget", "2s", "--objective", "size",
        "--recipe", "int8-dynamic", "--form", "portable", "--no-settings",
    ]  # fmt: skip
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["objective"] == "size" and report["trials"][0]["name"] == "fp32"
    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert again.returncode == 2 and "already exists" in again.stderr
    assert "left)" in done.stderr


def test_the_smallest_is_kept_where_size_is_what_counts(exported: Paths, trained: Paths, tmp_path: Path) -> None:
    report = tune(
        exported("mlp"), scoring(trained("mlp")), out=tmp_path / "m.bundle", objective="size", seconds=None,
        space=Space(forms=("portable",), recipes=("int8-dynamic",), settings=False), max_drop=1.0, workload=QUICK,
    )  # fmt: skip
    assert report.chosen.name == "int8-dynamic portable"
    assert "x the size" in report.chosen.reason
    sizes = {trial.name: trial.figures.size_bytes for trial in report.trials if trial.figures}
    assert report.chosen.figures is not None and report.chosen.figures.size_bytes == min(sizes.values())


def test_what_was_found_out_is_not_asked_again(
    exported: Paths, trained: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, kept = scoring(trained("mlp")), tmp_path / "kept"

    def once(name: str, **more: object) -> edgeai.tuning.TuneReport:  # type: ignore[name-defined]
        return tune(
            exported("mlp"), samples, out=tmp_path / name, space=FEW, seconds=None, workload=QUICK, resume=kept,
            max_drop=0.5, **more,
        )  # fmt: skip

    real, calls = workbench.measure_points, []

    def dies(*arguments: object, **named: object) -> object:
        calls.append(named["effort"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(workbench, "measure_points", dies)
    with pytest.raises(KeyboardInterrupt):
        once("1.bundle")
    assert not (tmp_path / "1.bundle").exists()
    first = once("2.bundle")
    assert calls[0] not in calls[2:], "the round that was finished is not measured again"
    made = len(calls)
    assert [trial.to_json() for trial in _figures(once("3.bundle"))] == [trial.to_json() for trial in _figures(first)]
    assert len(calls) == made
    once("4.bundle", seed=1)
    assert len(calls) > made, "another seed is another search"


def _figures(report: edgeai.tuning.TuneReport) -> list[Figures]:  # type: ignore[name-defined]
    return [trial.figures for trial in report.trials if trial.figures]


def test_what_is_asked_wrongly_is_said_before_any_work(exported: Paths, trained: Paths, tmp_path: Path) -> None:
    model, samples, out = exported("mlp"), scoring(trained("mlp")), tmp_path / "b"
    for more, error, text in (
        ({"objective": "beauty"}, UsageError, "no objective 'beauty'"),
        ({"space": Space(forms=("round",))}, UsageError, "no form 'round'"),
        ({"space": Space(recipes=("int2",))}, UsageError, "no recipe 'int2'"),
        ({"ep": "abacus"}, UsageError, "abacus"),
        ({"metric": "bleu"}, UsageError, "no metric 'bleu'"),
        ({"output": "z"}, UsageError, "no output z"),
    ):
        with pytest.raises(error, match=text):
            tune(model, samples, out=out, **more)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="needs samples"):
        tune(model, out=out, metric="accuracy")
    with pytest.raises(DataError, match="stand in both sets"):
        tune(model, samples.take([0] * 9), out=out)
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(StorageError, match="cannot keep a search in .*file"):
        tune(model, samples, out=out, resume=tmp_path / "file")
    with pytest.raises(UsageError, match="finalists must be at least 1"):
        Space(finalists=0)
    out.mkdir()
    with pytest.raises(ExistsError):
        tune(model, samples, out=out)
    assert not list(out.iterdir())


def test_every_objective_is_measured_for_every_point(exported: Paths, trained: Paths, tmp_path: Path) -> None:
    model = exported("mlp")
    small = edgeai.quantize(open_artifact(model), Int8Dynamic(), out=tmp_path / "q.onnx").path
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    base, point, bad = Point(), Point(Plan(None, "int8-dynamic")), Point(Plan("mha"))
    paths = {base.plan.name: model, point.plan.name: small, bad.plan.name: broken}
    inputs = save_inputs(scoring(trained("mlp")), tmp_path / "timed.npz")
    for name, objective in OBJECTIVES.items():
        found = measure_points(base, [point, bad], paths, inputs, objective, QUICK)
        assert found[base.name].cost is None and not found[base.name].failed
        assert found[bad.name].failed and found[bad.name].cost is None
        cost = found[point.name].cost
        assert cost is not None and cost[1] <= cost[0] * 1.0001 and cost[0] <= cost[2] * 1.0001 and cost[0] > 0
        assert Figures.from_json(json.loads(json.dumps(found[point.name].to_json()))) == found[point.name]
        if name == "size":
            assert cost[0] == pytest.approx(small.stat().st_size / model.stat().st_size)


def test_a_whole_measurement_has_blocks_enough_for_its_interval(
    exported: Paths, trained: Paths, tmp_path: Path
) -> None:
    model, base, point = exported("mlp"), Point(), Point(Plan("mha"))
    inputs = save_inputs(scoring(trained("mlp")), tmp_path / "timed.npz")
    paths, few = {base.plan.name: model, point.plan.name: model}, dataclasses.replace(QUICK, rounds=3)
    for name in ("latency", "cpu"):
        part = measure_points(base, [point], paths, inputs, OBJECTIVES[name], few, effort=0.4)
        assert part[base.name].is_resolved and not part[point.name].is_resolved
        whole = measure_points(base, [point], paths, inputs, OBJECTIVES[name], few)
        assert whole[point.name].is_resolved


def test_a_search_goes_on_where_a_raised_file_was_left(tmp_path: Path) -> None:
    """An old opset is raised before it is quantized; an interrupted search may have got that far and no further."""
    proto = onnx.parser.parse_model(
        '<ir_version: 4, opset_import: ["" : 7]> g (float[n, 64] x) => (float[n, 64] y) { y = MatMul(x, W) }'
    )
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "W"))
    onnx.save(proto, tmp_path / "old.onnx")
    artifact, plan, kept = open_artifact(tmp_path / "old.onnx"), Plan(None, "int8-dynamic"), tmp_path / "kept"
    kept.mkdir()
    assert artifact.signature is not None
    data = Data.invented(artifact.signature)

    def lab(reference: edgeai.Session) -> Workbench:
        return Workbench(
            artifact, reference, data, kept, objective=OBJECTIVES["latency"], workload=QUICK, max_drop=0.05,
            countdown=Countdown(None), journal=Journal(None, None),
        )  # fmt: skip

    with edgeai.load(artifact.path, ep="cpu") as reference:
        assert lab(reference).make(plan) == ""
        assert not list(kept.glob("*raised*")), "nothing is left that could be in the way"
        (kept / "int8-dynamic.onnx").unlink()
        assert lab(reference).make(plan) == ""


def test_a_file_that_does_not_answer_the_samples_is_refused_and_not_the_end(tmp_path: Path) -> None:
    """The candidate was made for one row: what the metric is scored on has more."""
    weight = onnx.numpy_helper.from_array(np.eye(8, dtype=np.float32), "W")
    for name, body in (
        ("good", "y = MatMul(x, W)"),
        ("bad", "s = Constant<value_ints = [1, 8]>() a = Reshape(x, s) y = MatMul(a, W)"),
    ):
        proto = onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["" : 17]> g (float[n, 8] x) => (float[n, 8] y) {{ {body} }}'
        )
        proto.graph.initializer.append(weight)
        onnx.save(proto, tmp_path / f"{name}.onnx")
    artifact, plan = open_artifact(tmp_path / "good.onnx"), Plan(None, "int8-dynamic")
    assert artifact.signature is not None
    rows = {"x": np.random.default_rng(4).standard_normal((40, 8)).astype(np.float32)}
    data = Data.of(edgeai.Samples.from_rows(rows, rows["x"].argmax(-1)), artifact.signature, name="m")
    data = dataclasses.replace(data, metric=METRICS["accuracy"])
    with edgeai.load(artifact.path, ep="cpu") as reference:
        lab = Workbench(
            artifact, reference, data, tmp_path, objective=OBJECTIVES["latency"], workload=QUICK, max_drop=0.05,
            countdown=Countdown(None), journal=Journal(tmp_path / "journal.json", None),
        )  # fmt: skip
        lab.paths[plan.name] = tmp_path / "bad.onnx"
        assert lab.judge(Point(plan)).refused.startswith("failed: it does not answer: bad.onnx")
        lab.paths[Plan().name] = tmp_path / "bad.onnx"
        with pytest.raises(InputError):
            lab.judge(Point())


def test_only_fusions_that_changed_the_graph_are_candidates(exported: Paths) -> None:
    assert "DynamicQuantizeMatMulFusion" not in fired_fusions(exported("transformer"))
    assert fired_fusions(exported("mlp")) == ["GemmActivationFusion"] or fired_fusions(exported("mlp")) == []


def test_less_effort_is_less_work_and_still_a_workload() -> None:
    whole = Workload()
    for effort in (0.01, 0.15, 0.4):
        part = scaled(whole, effort)
        assert part.min_seconds < whole.min_seconds and part.rounds >= 5
        assert part.min_iterations <= part.max_iterations
    assert scaled(whole, 1.0) is whole
    assert scaled(dataclasses.replace(whole, rounds=3), 0.1).rounds == 3
    assert most_together(1 << 50) == 1
    assert 1 <= most_together(1 << 20) <= 8


def test_the_countdown_ends_and_is_said() -> None:
    now = [0.0]
    advanced: list[int] = []

    class Bars:
        def log(self, message: str) -> None:
            lines.append(message)

        def task(self, label: str, total: int):  # type: ignore[no-untyped-def]
            import contextlib

            @contextlib.contextmanager
            def bar():  # type: ignore[no-untyped-def]
                yield lambda n=1, *, note="": advanced.append(n)

            return bar()

    lines: list[str] = []
    countdown = Countdown(100.0, progress=Bars(), clock=lambda: now[0])
    with countdown.shown("tuning"):
        now[0] = 30.5
        countdown.tick()
        countdown.note("half way")
        now[0] = 500.0
        countdown.tick()
    assert advanced == [30, 70] and countdown.left() == 0.0
    assert lines == ["half way (1 m 10 s left)"]
    assert said(5.2) == "5 s left"
    assert Countdown(None).left() == float("inf")


def test_samples_split_by_seed_share_nothing(exported: Paths) -> None:
    signature = open_artifact(exported("mlp")).signature
    assert signature is not None
    (spec,) = signature.inputs
    shape = tuple(axis if isinstance(axis, int) else 1 for axis in spec.shape[1:])
    samples = edgeai.Samples.from_rows({spec.name: np.random.default_rng(0).random((40, *shape), np.float32)})
    one, two = (Data.of(samples, signature, name="m", seed=seed) for seed in (0, 1))
    assert one.calibration is not None and two.calibration is not None
    parts = [one.calibration, one.scoring, one.golden]
    assert sum(map(len, parts)) == 40 and len({key for part in parts for key in part.digests()}) == 40
    assert one.calibration.digests() != two.calibration.digests()
    assert one.splits is None, "without a metric there is no search within a budget"


def test_a_recipe_that_costs_too_much_is_searched_for_layers_to_leave_in_float(tmp_path: Path) -> None:
    """The second product has a row of huge weights that only ever meet zeros: with it the scales are useless."""
    random = np.random.default_rng(3)
    weights = {name: random.standard_normal((16, 16)).astype(np.float32) / 4 for name in ("A", "B", "C")}
    weights["A"][:, 0] = 0
    weights["B"][0] *= 3000
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 20]> g (float[n, 16] x) => (float[n, 16] y) {
        [first] a = MatMul(x, A) b = Relu(a) [second] c = MatMul(b, B) d = Relu(c) [third] y = MatMul(d, C) }"""
    )
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    model = modelfile.ir.from_proto(proto)
    artifact = modelfile.save(model, Artifact(tmp_path / "m.onnx", (), modelfile.signature_of(model)))
    rows = {"x": np.random.default_rng(4).standard_normal((400, 16)).astype(np.float32)}
    with edgeai.load(artifact.path, ep="cpu") as reference:
        assert artifact.signature is not None
        labelled = edgeai.Samples.from_rows(rows, reference.run(rows)["y"].argmax(-1))
        data = Data.of(labelled, artifact.signature, name="m")
        data = dataclasses.replace(data, metric=METRICS["accuracy"])
        lab = Workbench(
            artifact, reference, data, tmp_path, objective=OBJECTIVES["latency"], workload=QUICK, max_drop=0.05,
            countdown=Countdown(None), journal=Journal(None, None),
        )  # fmt: skip
        plain = Plan("portable", "int8-dynamic")
        assert lab.make(plain) == ""
        assert "beyond 5.00%" in lab.judge(Point(plain)).refused
        (rescue,) = rescues(plain)
        assert lab.make(rescue) == ""
        judged = lab.judge(Point(rescue))
    assert judged.refused == "" and judged.loss <= 0.05
    assert data.splits is not None
    assert judged.agreement["metric"]["samples"] == len(data.splits.score), "scored on what nothing was chosen on"
    assert open_artifact(lab.paths[rescue.name]).lineage[-1].options["exclude"] == ["second"]


def test_files_for_a_provider_that_is_not_here_are_made_each_once(
    exported: Paths, trained: Paths, tmp_path: Path
) -> None:
    artifact = open_artifact(exported("transformer"))
    assert artifact.signature is not None
    with edgeai.load(artifact.path, ep="cpu") as reference:
        lab = Workbench(
            artifact, reference, Data.of(scoring(trained("transformer")), artifact.signature, name="m"), tmp_path,
            objective=OBJECTIVES["latency"], workload=QUICK, max_drop=0.05, countdown=Countdown(None),
            journal=Journal(None, None),
        )  # fmt: skip
        wanted = [plan for plan in plans(["openvino"]) if plan.form == "portable-separate-qkv"]
        assert [lab.make(plan) for plan in wanted] == [""] * 4
    rounded = {
        plan.name: sum(node.op_type == "QuantizeLinear" for node in modelfile.load(lab.paths[plan.name]).graph)
        for plan in wanted
    }
    assert rounded.pop("fp32 portable-separate-qkv") == 0
    assert 0 < rounded["int8-static-products portable-separate-qkv"] < rounded["int8-static portable-separate-qkv"]
