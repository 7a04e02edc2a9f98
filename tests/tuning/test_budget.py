"""Within an accuracy budget: the layer that cannot bear integers stays in float, and nobody else."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.errors import DataError, QuantizationError, UsageError
from edgeai.metrics import METRICS
from edgeai.quantization import Int8Dynamic, Int8Weight, quantize
from edgeai.quantization.preparation import prepare
from edgeai.runtime.loading import load
from edgeai.samples import Samples
from edgeai.tuning.budget import within_budget
from edgeai.tuning.judging import find_metric, labelled
from edgeai.tuning.layers import groups
from edgeai.tuning.splits import Splits

RECIPE = Int8Dynamic(per_channel=False)
WIDTH = 16


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Three layers. The second has a row of huge weights that only ever meet zeros: with one scale for the whole
    matrix nothing else of it is left.
    """
    random = np.random.default_rng(3)
    weights = {name: random.standard_normal((WIDTH, WIDTH)).astype(np.float32) / 4 for name in ("A", "B", "C")}
    weights["A"][:, 0] = 0
    weights["B"][0] *= 3000
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 20]> g (float[n, 16] x) => (float[n, 16] y) {
        [first] a = MatMul(x, A) b = Relu(a) [second] c = MatMul(b, B) d = Relu(c) [third] y = MatMul(d, C) }"""
    )
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    model = ir.from_proto(proto)
    path = tmp_path_factory.mktemp("budget") / "model.onnx"
    return modelfile.save(model, Artifact(path, (), modelfile.signature_of(model)))


@pytest.fixture(scope="module")
def samples(artifact: Artifact) -> Samples:
    """Labelled with the float model's own choice, so that its accuracy is 1."""
    rows = {"x": np.random.default_rng(4).standard_normal((400, WIDTH)).astype(np.float32)}
    with load(artifact.path, ep="cpu") as engine:
        return Samples.from_rows(rows, engine.run(rows)["y"].argmax(-1))


def test_the_layer_that_suffers_stays_in_float(artifact: Artifact, samples: Samples, tmp_path: Path) -> None:
    splits = Splits.of(samples)
    found = within_budget(artifact, RECIPE, splits, METRICS["accuracy"], max_drop=0.05, out=tmp_path / "q.onnx")
    assert found.kept_float == ("second",)
    assert found.sensitivities[0].group.name == "second"
    assert found.sensitivities[0].distance > 10 * found.sensitivities[1].distance
    assert found.holds and found.complete and found.float_share == pytest.approx(1 / 3)
    assert found.final.samples == len(splits.score)
    assert "1 nodes with 33% of the weights stay in float" in found.summary
    written = modelfile.load(tmp_path / "q.onnx")
    assert sum(node.op_type == "MatMul" for node in written.graph) == 1
    assert tuple(found.artifact.lineage[-1].options["exclude"]) == ("second",)


def test_without_a_problem_nothing_stays_in_float(artifact: Artifact, samples: Samples, tmp_path: Path) -> None:
    excluded = dataclasses.replace(RECIPE, exclude=("second",))
    found = within_budget(
        artifact, excluded, Splits.of(samples), METRICS["accuracy"], max_drop=0.1, out=tmp_path / "q.onnx"
    )
    assert (found.kept_float, found.tried) == ((), 1)
    assert tuple(found.artifact.lineage[-1].options["exclude"]) == ("second",)


def test_a_budget_that_nothing_holds_is_refused(artifact: Artifact, samples: Samples, tmp_path: Path) -> None:
    lines = {"x": samples.rows["x"]}
    with load(artifact.path, ep="cpu") as engine:
        close = Samples.from_rows(lines, engine.run(lines)["y"])
    with pytest.raises(QuantizationError, match="the cosine holds only with every layer in float"):
        within_budget(artifact, RECIPE, Splits.of(close), METRICS["cosine"], max_drop=1e-9, out=tmp_path / "q.onnx")
    assert not (tmp_path / "q.onnx").exists()


def test_an_interrupted_search_goes_on(artifact: Artifact, samples: Samples, tmp_path: Path) -> None:
    splits, journal = Splits.of(samples), tmp_path / "search.json"
    metric = METRICS["accuracy"]
    first = within_budget(artifact, RECIPE, splits, metric, max_drop=0.05, out=tmp_path / "1.onnx", resume=journal)
    answers = json.loads(journal.read_text())["answers"]
    alone = [key for key in answers if json.loads(key)[0] == "alone"]
    assert len(alone) == 3
    # Had it been killed here, only this would be known; a wrong answer planted in it is believed, not asked again.
    kept = {key: (100.0 if "third" in key else answers[key]) for key in alone}
    journal.write_text(json.dumps({**json.loads(journal.read_text()), "answers": kept}))
    again = within_budget(artifact, RECIPE, splits, metric, max_drop=0.05, out=tmp_path / "2.onnx", resume=journal)
    assert first.sensitivities[0].group.name == "second"
    assert again.sensitivities[0].group.name == "third"
    assert again.kept_float == ("second",)  # the third layer got its second chance
    with pytest.raises(DataError, match="of another model, data or recipe"):
        within_budget(artifact, RECIPE, splits, METRICS["cosine"], out=tmp_path / "3.onnx", resume=journal)


def test_when_the_time_is_up_the_best_so_far_is_taken(artifact: Artifact, samples: Samples, tmp_path: Path) -> None:
    journal = tmp_path / "search.json"
    splits, metric = Splits.of(samples), METRICS["accuracy"]
    within_budget(artifact, RECIPE, splits, metric, max_drop=0.05, out=tmp_path / "1.onnx", resume=journal)
    kept = json.loads(journal.read_text())
    for key in kept["answers"]:
        if "third" in key and "alone" in key:
            kept["answers"][key] = 100.0
    journal.write_text(json.dumps(kept))
    found = within_budget(
        artifact, RECIPE, splits, metric, max_drop=0.05, out=tmp_path / "2.onnx", resume=journal, seconds=0.0
    )
    assert found.holds and not found.complete
    assert found.kept_float == ("third", "second")


def test_splits_share_no_sample(samples: Samples) -> None:
    twice = samples.take(np.concatenate((np.arange(40), np.arange(40))))
    parts = Splits.of(twice)
    sizes = [len(part) for part in (parts.calibration, parts.search, parts.score)]
    assert sizes == [20, 20, 40]
    with pytest.raises(DataError, match="search and score: 1 samples stand in both"):
        Splits(samples.take(slice(0, 2)), samples.take(slice(2, 4)), samples.take(slice(3, 6)))
    with pytest.raises(DataError, match="1 different samples cannot be split"):
        Splits.of(samples.take([0, 0, 0, 0, 0]))


def test_many_layers_are_judged_by_block(artifact: Artifact) -> None:
    model = modelfile.load(artifact.path)
    for index, node in enumerate(node for node in model.graph if node.op_type == "MatMul"):
        weight = node.inputs[1]
        assert weight is not None
        weight.name = f"encoder.{index // 2}.weight_{index}"
    gone = model.clone()
    for node in list(gone.graph):
        if node.op_type == "MatMul":
            node.op_type = "Gone"
    assert [group.name for group in groups(model, gone)] == ["first", "second", "third"]
    blocks = groups(model, gone, most=2)
    assert [(group.name, group.nodes) for group in blocks] == [
        ("encoder.0", ("first", "second")),
        ("encoder.1", ("third",)),
    ]
    assert blocks[0].elements == 2 * WIDTH * WIDTH


def test_the_metric_follows_from_the_labels(samples: Samples, artifact: Artifact, tmp_path: Path) -> None:
    assert find_metric(None, samples.labels, 2).name == "accuracy"
    assert find_metric(None, np.zeros((2, 5), np.int64), 3).name == "perplexity"
    assert find_metric(None, None, 2).name == find_metric(None, np.zeros(2), 2).name == "cosine"
    with pytest.raises(UsageError, match="accuracy needs labels"):
        find_metric("accuracy", None, 2)
    with pytest.raises(UsageError, match="there is no metric 'bleu'"):
        find_metric("bleu", None, 2)
    bare = Samples.from_rows({"x": samples.rows["x"][:6]})
    with load(artifact.path, ep="cpu") as engine:
        close = labelled(bare, engine, METRICS["cosine"], "y", batch=4)
        assert close.labels is not None
        np.testing.assert_allclose(METRICS["cosine"].per_sample(engine.run(dict(bare.rows))["y"], close.labels), 1.0)
        each = labelled(Samples.from_feeds(list(bare.feeds(2))), engine, METRICS["cosine"], "y", batch=4)
        assert each.labels is not None and each.labels.shape == (3, 2 * WIDTH)


def test_a_metric_of_the_users_own(samples: Samples, tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text(
        "def error(output, labels):\n    return (output.argmax(-1) != labels) * 1.0\n"
        "error.higher_is_better = False\ndef bad(output, labels):\n    return 3.0\nnumber = 3\n"
    )
    metric = find_metric(f"{code}:error", samples.labels, 2)
    assert not metric.higher_is_better
    assert metric(np.eye(3), np.array([0, 1, 0])) == pytest.approx(1 / 3)
    with pytest.raises(DataError, match="one finite number a sample"):
        find_metric(f"{code}:bad", samples.labels, 2)(np.eye(3), np.zeros(3, np.int64))
    with pytest.raises(UsageError, match="is not a function"):
        find_metric(f"{code}:number", samples.labels, 2)


_WORDS = """g (float[t, n, 16] x) => (float[t, n, 16] y) {
    [memory] h, last = LSTM<hidden_size = 16>(x, W, R) s = Squeeze(h, one)
    total = ReduceSum<keepdims = 0>(s) c = Greater(total, zero)
    y = If(c) <then_branch = a () => (float[t, n, 16] p) { [inner] p = MatMul(s, V) },
               else_branch = b () => (float[t, n, 16] q) { [other] q = MatMul(s, U) }> }"""


@pytest.mark.parametrize("recipe", [Int8Dynamic(), Int8Weight()], ids=lambda recipe: recipe.name)
def test_recurrent_layers_and_bodies_are_kept_in_float_by_name(recipe: Any, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> {_WORDS}')
    weights = {name: random.standard_normal((1, 64, 16)).astype(np.float32) for name in "WR"}
    weights |= {name: random.standard_normal((16, 16)).astype(np.float32) for name in "VU"}
    constants = {"one": np.array([1]), "zero": np.array(0, np.float32)}
    arrays = weights | constants
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    artifact = modelfile.save(ir.from_proto(proto), Artifact(tmp_path / "float.onnx"))
    before = prepare(modelfile.load(artifact.path), artifact.path)

    def found(exclude: tuple[str, ...]) -> dict[str, int]:
        out = tmp_path / f"{len(exclude)}.onnx"
        done = quantize(modelfile.open_artifact(artifact.path), dataclasses.replace(recipe, exclude=exclude), out=out)
        return {group.name: group.elements for group in groups(before, modelfile.load(done.path))}

    assert found(()) == {"memory": 2 * 64 * 16, "inner": 256, "other": 256}
    assert list(found(("memory", "other"))) == ["inner"]
    assert list(found(("inner",))) == ["memory", "other"]


def test_a_head_behind_a_transpose_is_a_layer(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 20]> g (float[n, 16] x) => (float[n, 24] y) {
        t = Transpose<perm = [1, 0]>(E) [head] y = MatMul(x, t) }"""
    )
    table = np.random.default_rng(0).standard_normal((24, 16)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(table, "E"))
    artifact = modelfile.save(ir.from_proto(proto), Artifact(tmp_path / "float.onnx"))
    before = prepare(modelfile.load(artifact.path), artifact.path)
    done = quantize(modelfile.open_artifact(artifact.path), Int8Dynamic(), out=tmp_path / "q.onnx")
    assert [(group.name, group.elements) for group in groups(before, modelfile.load(done.path))] == [("head", 24 * 16)]
