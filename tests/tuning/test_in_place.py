"""A decoder's cache goes in place where that was measured faster, and no declared batch is given up unasked."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import edgeai
from edgeai import modelfile
from edgeai.bench import Workload
from edgeai.errors import BenchmarkError, UsageError
from edgeai.modelfile import open_artifact
from edgeai.progress import SILENT
from edgeai.runtime.generation import generate
from edgeai.runtime.kv_cache import InPlaceCache, open_cache
from edgeai.runtime.loading import load
from edgeai.spec import Axis, Signature, TensorSpec
from edgeai.tuning import Space, in_place, tune
from edgeai.tuning.candidates import Plan, Point
from edgeai.tuning.countdown import Countdown
from edgeai.tuning.data import Data
from edgeai.tuning.exploring import Explored, Judged, Trial
from edgeai.tuning.in_place import with_cache_in_place
from edgeai.tuning.journal import Journal
from edgeai.tuning.objective import Figures, objective_of
from edgeai.tuning.whole_texts import Continuations, one_text, time_texts
from edgeai.tuning.workbench import Workbench

Paths = Callable[[str], Path]
QUICK = Workload(
    min_iterations=5, max_iterations=10, min_seconds=0, max_seconds=1, warmup_min_seconds=0,
    warmup_max_seconds=0.1, settle_seconds=0, rounds=5,
)  # fmt: skip
SLOWER, FASTER = (1.0, 0.9, 0.99), (0.8, 0.75, 0.85)


class Lab:
    def __init__(
        self, ratio: tuple[float, float, float] = FASTER, *, made: str | None = "", refused: str = "",
        left: float = 1.0, broken: bool = False,
    ) -> None:  # fmt: skip
        self._ratio, self._made, self._refused, self._left, self._broken = ratio, made, refused, left, broken
        self.said: list[str] = []

    def make(self, plan: Plan) -> str | None:
        assert plan == Plan("in-place", "int8-static", "percentile"), "the recipe is the winner's"
        return self._made

    def judge(self, point: Point) -> Judged:
        return Judged(0.0, self._refused)

    def left(self) -> float:
        return self._left

    def time_texts(self, points: Sequence[Point]) -> Figures:
        if self._broken:
            raise BenchmarkError("its process ended")
        return Figures(p50_ns=7, latency=self._ratio, cost=self._ratio, size_bytes=10)

    def log(self, text: str) -> None:
        self.said.append(text)


def signature(texts: int | str = "batch") -> Signature:
    return Signature((TensorSpec("input_ids", "int64", (texts, "s")),), (), (Axis("batch", 1, 64), Axis("s")))


def decided(lab: Lab, *, asked: bool, texts: int | str = "batch", provider: str = "cpu") -> Explored:
    base = Trial(Point(), "replaced by it")
    usual = Trial(Point(Plan("mha", "int8-static", "percentile"), provider), "kept: 0.5x the time", judged=Judged(0.0))
    found = Explored(usual, (base, usual), ("fp32",))
    after = with_cache_in_place(found, lab, signature(texts), asked=asked)
    assert after.chosen in after.trials and after.trials[0] == base and after.frontier == found.frontier
    assert [trial.name for trial in after.trials[2:]] == ["int8-static-percentile in-place"] or provider != "cpu"
    return after


@pytest.mark.parametrize(("asked", "texts"), [(True, "batch"), (False, 1)])
def test_what_is_faster_is_chosen_where_no_batch_is_lost_unasked(asked: bool, texts: int | str) -> None:
    found = decided(Lab(), asked=asked, texts=texts)
    assert found.chosen.name == "int8-static-percentile in-place"
    assert found.chosen.reason == "kept: 0.80x the time of a text (0.75..0.85) of int8-static-percentile mha"
    assert found.trials[1].reason == "replaced by int8-static-percentile in-place (kept: 0.5x the time)"
    assert found.chosen.figures == Figures(size_bytes=10), "a text's time is not shown as a run's"


def test_a_declared_batch_is_kept_and_the_gain_is_said() -> None:
    lab = Lab()
    found = decided(lab, asked=False)
    assert found.chosen.name == "int8-static-percentile mha" and found.chosen.reason == "kept: 0.5x the time"
    (line,) = lab.said
    assert "0.80x the time of a text (0.75..0.85)" in line and "--cache-in-place" in line
    assert found.trials[-1].reason.endswith("but not 64 texts at once: not asked for")


@pytest.mark.parametrize(
    ("lab", "provider", "reason"),
    [
        (Lab(SLOWER), "cpu", "not shown to be faster: 1.00x the time of a text"),
        (Lab(made="not possible: no attention"), "cpu", "not possible: no attention"),
        (Lab(made=None), "cpu", "it is int8-static-percentile mha again"),
        (Lab(refused="failed: answers differ"), "cpu", "failed: answers differ"),
        (Lab(broken=True), "cpu", "not timed: its process ended"),
        (Lab(), "cuda", "proven on the CPU, and cuda was chosen"),
    ],
)
def test_otherwise_the_choice_stays_and_who_asked_is_told_why(lab: Lab, provider: str, reason: str) -> None:
    found = decided(lab, asked=True, provider=provider)
    assert found.chosen.point.plan.form == "mha" and found.chosen.reason == "kept: 0.5x the time"
    assert reason in found.trials[-1].reason
    assert [reason in line for line in lab.said] == [True]


def test_time_that_is_up_is_spent_only_on_what_was_asked_for() -> None:
    assert "the time was up" in decided(Lab(left=0.0), asked=False).trials[-1].reason
    assert decided(Lab(left=0.0), asked=True).chosen.point.plan.form == "in-place"


def test_a_run_is_a_whole_text(exported: Paths) -> None:
    engine = Continuations(str(exported("gpt")), settings={}, new=5)
    prompt = np.array([[1, 2, 3]])
    with load(exported("gpt"), ep="cpu") as session:
        expected = list(generate(session, prompt, max_new_tokens=5))
    assert engine.run({"input_ids": prompt})["tokens"].tolist() == expected and len(expected) == 5
    engine.close()
    with pytest.raises(UsageError, match="no decoder"):
        Continuations(str(exported("mlp")), settings={}, new=5)


def test_texts_are_timed_in_turn(exported: Paths) -> None:
    artifact = open_artifact(exported("gpt"))
    assert artifact.signature is not None
    points = [Point(), dataclasses.replace(Point(), plan=Plan("mha"))]
    samples = edgeai.Samples.from_feeds(
        [{"input_ids": np.array([[1, 2], [3, 4]])}, {"input_ids": np.zeros((1, 0), int)}]
    )
    paths = {point.plan.name: artifact.path for point in points}
    found = time_texts(points, paths, samples, artifact.signature, QUICK)
    assert found.latency is not None and found.latency[1] <= found.latency[0] <= found.latency[2] and found.is_resolved


def test_a_batch_of_complete_feeds_is_cut_to_its_first_text() -> None:
    items = edgeai.Samples.from_feeds([{"x": np.arange(6).reshape(3, 2)}])
    assert [feed["x"].tolist() for feed in one_text(items).feeds()] == [[[0, 1]]]
    rows = edgeai.Samples.from_rows({"x": np.arange(6).reshape(3, 2)})
    assert one_text(rows) is rows


def test_the_bundle_has_its_cache_in_place(exported: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Log:
        task, lines = SILENT.task, list[str]()

        def log(self, message: str) -> None:
            self.lines.append(message)

    out, few = tmp_path / "t.bundle", Space(("portable",), ("int8-dynamic",), settings=False, finalists=1)
    monkeypatch.setattr(in_place, "NOISE_FLOOR", -1e9)  # whatever was measured counts as faster

    def once(out: Path, **more: bool) -> edgeai.tuning.TuneReport:  # type: ignore[name-defined]
        return tune(
            exported("gpt"), out=out, space=dataclasses.replace(few, **more), seconds=None, workload=QUICK,
            resume=tmp_path / "kept", max_drop=1.0, progress=Log(),
        )  # fmt: skip

    report = once(out, cache_in_place=True)
    assert report.chosen.point.plan.form == "in-place" and report.chosen == report.trials[-1]
    with edgeai.load(out) as session:
        assert isinstance(open_cache(session, 1, 8), InPlaceCache)
        assert session.signature.axis("batch").maximum == 1
        assert session.bundle.manifest["results"]["tune"]["chosen"] == report.chosen.name
        assert len(list(generate(session, [1, 2, 3], max_new_tokens=5))) == 5
    assert not Log.lines or "--cache-in-place" not in " ".join(Log.lines)
    usual = once(tmp_path / "u.bundle")
    assert usual.chosen.point.plan.form != "in-place"
    assert "--cache-in-place ships that" in " ".join(Log.lines)
    with edgeai.load(tmp_path / "u.bundle") as session:
        assert session.signature.axis("batch").maximum > 1


def test_a_decoder_of_integers_is_made_in_place_too(exported: Paths, tmp_path: Path) -> None:
    artifact, plan = open_artifact(exported("gpt")), Plan("in-place", "int8-dynamic")
    assert artifact.signature is not None
    with load(artifact.path, ep="cpu") as reference:
        lab = Workbench(
            artifact, reference, Data.invented(artifact.signature), tmp_path, objective=objective_of("latency"),
            workload=QUICK, max_drop=1.0, countdown=Countdown(None), journal=Journal(tmp_path / "j.json", []),
        )  # fmt: skip
        assert lab.make(plan) == ""
        assert not lab.judge(Point(plan)).refused
    with load(lab.paths[plan.name], ep="cpu") as session:
        assert isinstance(open_cache(session, 1, 8), InPlaceCache) and session.signature.axis("batch").maximum == 1
    operators = {node.op_type for node in modelfile.load(lab.paths[plan.name]).graph}
    assert {"GroupQueryAttention", "MatMulInteger"} <= operators


def test_the_cache_of_what_has_none_is_refused(exported: Paths, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no decoder with a KV cache"):
        tune(exported("mlp"), out=tmp_path / "m.bundle", space=Space(cache_in_place=True), seconds=1.0, workload=QUICK)
    assert not list(tmp_path.iterdir())
