"""The benchmarks against peers: the pipe to a peer's process, and the verdicts."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeai
from edgeai.bench import Workload
from edgeai.bench.interleave import Recording, interleave
from edgeai.bench.limits import Ceilings, NodeCost
from edgeai.bench.loop import Block, WarmUp
from edgeai.machine import machine
from edgeai.metrics import METRICS
from edgeai.progress import SILENT
from edgeai.samples import Samples
from edgeai.spec import Signature, TensorSpec

ROOT = Path(__file__).parents[1]
BRIEF = Workload(
    min_iterations=4, max_iterations=8, min_seconds=0, max_seconds=5, rounds=2, warmup_window=2, warmup_min_seconds=0,
    warmup_max_seconds=1, settle_seconds=0,
)  # fmt: skip
TWO_ROUNDS = dataclasses.replace(BRIEF, min_iterations=1, max_iterations=100)
DRIVER = """
import os, sys, time
from protocol import serve

print("a tool that prints what is no JSON")

def copy(source, out, calibration, times):
    out.write_bytes(source.read_bytes() * times * len(calibration))

def fail(source, out, calibration):
    raise ValueError("cannot take it\\nat all")

def nothing(source, out, calibration):
    print("done")

def end(source, out, calibration):
    print("out of luck", file=sys.stderr)
    os._exit(3)

def hang(source, out, calibration):
    time.sleep(600)

def doubled(source):
    return lambda feed: 2 * feed["x"]

recipes = {"copy": copy, "fail": fail, "nothing": nothing, "end": end, "hang": hang}
serve(recipes=recipes, forms={"doubled": doubled}, packages=("numpy",))
"""


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture
def peer(benchmarks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from peers import process

    monkeypatch.setattr(process, "QUANTIZING_SECONDS", 60.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    Samples.from_rows({"x": np.arange(6.0).reshape(3, 2)}).save(tmp_path / "inputs.npz")
    (tmp_path / "model").write_bytes(b"ab")
    with process.Peer("fake", [sys.executable, "-P", str(driver)], workload=BRIEF) as opened:
        yield opened


def test_a_file_is_made_with_all_samples_and_options(peer: Any, tmp_path: Path) -> None:
    seconds = peer.quantize("copy", tmp_path / "model", tmp_path / "out", tmp_path / "inputs.npz", times=2)
    assert (tmp_path / "out").read_bytes() == b"ab" * 6
    assert 0 <= seconds < 60
    assert peer.versions()["numpy"] == np.__version__


def test_a_failure_is_told_and_the_next_command_answered(peer: Any, tmp_path: Path) -> None:
    from peers.process import PeerError

    with pytest.raises(PeerError, match=r"^ValueError: cannot take it at all$"):
        peer.quantize("fail", tmp_path / "model", tmp_path / "out")
    with pytest.raises(PeerError, match="wrote nothing"):
        peer.quantize("nothing", tmp_path / "model", tmp_path / "out")
    assert "python" in peer.versions()


def test_an_end_is_told_with_its_last_words(peer: Any, tmp_path: Path) -> None:
    from peers.process import PeerError

    with pytest.raises(PeerError, match=r"fake ended with exit code 3: out of luck"):
        peer.quantize("end", tmp_path / "model", tmp_path / "out")
    with pytest.raises(PeerError, match="exit code 3"):
        peer.versions()


def test_a_peer_that_hangs_is_given_up(peer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from peers import process

    peer.versions()  # it is up
    monkeypatch.setattr(process, "QUANTIZING_SECONDS", 0.1)
    with pytest.raises(process.PeerError, match="no answer to quantize"):
        peer.quantize("hang", tmp_path / "model", tmp_path / "out")
    assert not peer.is_alive


def test_answers_and_samples_come_back(peer: Any, tmp_path: Path) -> None:
    peer.load("doubled", tmp_path / "model", tmp_path / "inputs.npz")
    peer.run(tmp_path / "answers.npz")
    with np.load(tmp_path / "answers.npz") as answers:
        assert [answers[f"answer/{i}"].tolist() for i in range(3)] == [[[0, 2]], [[4, 6]], [[8, 10]]]
    assert len(peer.block(5, budget_ns=10**10, discard=2).samples_ns) == 5
    assert len(peer.block(5, budget_ns=0).samples_ns) == 1


def test_it_takes_turns_with_another_lane(peer: Any, tmp_path: Path) -> None:
    peer.load("doubled", tmp_path / "model", tmp_path / "inputs.npz")
    recording = interleave({"a": peer, "b": peer}, BRIEF)
    assert sorted(recording.order) == ["a", "a", "b", "b"]
    assert set(recording.order[:2]) == {"a", "b"}
    assert recording.warm_ups["a"].runs >= 6


@pytest.mark.parametrize("form", ["in-place", "portable"])
@pytest.mark.parametrize("prompt", [[], [5, 9, 2]])
def test_our_decoder_continues_a_prompt_of_its_own(
    benchmarks: None, exported: Callable[[str], Path], tmp_path: Path, prompt: list[int], form: str
) -> None:
    from peers.environments import EDGEAI, command
    from peers.process import Peer

    feeds = [
        {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(prompt) + 2), np.int64)}
        for ids in ([7, 3], [8, 1], [7, 3])
    ]
    Samples.from_feeds(feeds).save(tmp_path / "feeds.npz")
    with Peer(EDGEAI, command(EDGEAI), workload=BRIEF) as peer:
        peer.quantize("rewritten", exported("gpt"), tmp_path / "rewritten.onnx", form=form)
        peer.load("session", tmp_path / "rewritten.onnx", tmp_path / "feeds.npz", prompt=prompt)
        peer.run(tmp_path / "answers.npz")
    with edgeai.load(exported("gpt"), ep="cpu") as session, np.load(tmp_path / "answers.npz") as answers:
        empty = {
            spec.name: np.zeros((1, spec.shape[1], 0, spec.shape[3]), np.float32)
            for spec in session.signature.inputs
            if spec.name.startswith("past")
        }
        for i, feed in enumerate(feeds):
            ids = np.array([[*prompt, *feed["input_ids"][0]]])
            logits = session.run({"input_ids": ids, "attention_mask": np.ones_like(ids), **empty})["logits"]
            assert answers[f"answer/{i}"].shape == (1, 1, logits.shape[2])
            np.testing.assert_allclose(answers[f"answer/{i}"], logits[:, -1:], rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
def test_it_knows_nothing_of_this_process(peer: Any) -> None:
    environment = dict(
        line.split("=", 1) for line in Path(f"/proc/{peer._process.pid}/environ").read_text().split("\0") if "=" in line
    )
    assert environment["PYTHONPATH"] == str(ROOT / "benchmarks" / "peers" / "common")
    assert "OMP_NUM_THREADS" not in environment


@pytest.mark.parametrize(
    ("cosine", "faster", "best", "met"),
    [
        (0.9999, 3, "edgeai int8", "yes"),
        (0.9999, 1.5, "edgeai int8", "no"),
        (0.5, 3, "edgeai fp32", "no"),  # fast nonsense does not count
    ],
)
def test_a_goal_is_met_by_a_fast_and_right_answer(
    benchmarks: None, cosine: float, faster: float, best: str, met: str
) -> None:
    from peers.contests import Goal
    from speed_peers import contender, judged

    goal = Goal("peer", 2.0)
    times = {"peer": 1200, "edgeai int8": 1200 / faster, "edgeai fp32": 1100}
    rows = {name: {"failed": None, "p50_ns": time, "cosine": 1.0} for name, time in times.items()}
    rows["edgeai int8"]["cosine"] = cosine
    blocks = {name: [Block((int(time),) * 5, 0)] * 6 for name, time in times.items()}
    recording = Recording(blocks=blocks)
    told = judged(goal, rows, contender(goal, rows, recording), recording)
    assert (told["edgeai"], told["met"], told["rounds"]) == (best, met, 6)


def test_slow_rounds_are_slow_for_all(benchmarks: None) -> None:
    from peers.contests import Goal
    from speed_peers import contender

    def rounds(*times: int) -> list[Block]:
        return [Block((time,) * 5, 0) for time in times]

    rows = {name: {"failed": None, "cosine": 1.0} for name in ("peer", "edgeai steady", "edgeai lucky")}
    blocks = {  # who missed a slow round has the lower median, and is no faster in any
        "peer": rounds(1000, 2000, 2000), "edgeai steady": rounds(900, 1800, 1800), "edgeai lucky": rounds(1000, 1900),
    }  # fmt: skip
    assert contender(Goal("peer", 1.0), rows, Recording(blocks=blocks)) == "edgeai steady"


class Ageing:
    """A lane of so many nanoseconds a run, and another number of them after its first `young` blocks."""

    def __init__(self, first_ns: int, then_ns: int, young: int) -> None:
        self._times, self._young, self.blocks = (first_ns, then_ns), young, 0

    def warm_up(self) -> WarmUp:
        return WarmUp(1, self._times[0], self._times[0], True)

    def block(self, runs: int, *, budget_ns: int, discard: int = 0) -> Block:
        self.blocks += 1
        return Block((self._times[self.blocks > self._young],) * runs, 0)


def test_goals_are_judged_in_a_final_that_did_not_choose_who_plays(benchmarks: None) -> None:
    from peers.contests import Goal
    from speed_peers import played

    lanes = {
        "peer": Ageing(1000, 1000, 2), "bystander": Ageing(1, 1, 2),
        "edgeai lucky": Ageing(500, 2000, 2), "edgeai other": Ageing(900, 100, 2),
    }  # fmt: skip
    rows = {name: {"failed": None, "cosine": 1.0} for name in lanes}
    recording, (goal,) = played([Goal("peer", 1.0)], rows, lanes, TWO_ROUNDS, SILENT)
    assert (goal["edgeai"], goal["ratio"], goal["met"]) == ("edgeai lucky", [pytest.approx(0.5)] * 3, "no")
    assert goal["rounds"] == lanes["peer"].blocks - 2 == 10 * TWO_ROUNDS.rounds
    assert lanes["bystander"].blocks == lanes["edgeai other"].blocks == 2
    assert {len(blocks) for blocks in recording.blocks.values()} == {2}, "the table is of all together"


@pytest.mark.parametrize("moment", [3, 6])  # of all together two rounds, then the final
def test_an_interrupted_contest_is_none(benchmarks: None, moment: int) -> None:
    from peers.contests import Goal
    from speed_peers import played

    class Interrupted(Ageing):
        def block(self, runs: int, *, budget_ns: int, discard: int = 0) -> Block:
            if sum(lane.blocks for lane in lanes.values()) == moment:
                raise KeyboardInterrupt
            return super().block(runs, budget_ns=budget_ns, discard=discard)

    lanes = {name: Interrupted(1000, 1000, 0) for name in ("peer", "edgeai")}
    rows = {name: {"failed": None, "cosine": 1.0} for name in lanes}
    with pytest.raises(KeyboardInterrupt):
        played([Goal("peer", 1.0)], rows, lanes, TWO_ROUNDS, SILENT)
    assert sum(lane.blocks for lane in lanes.values()) == moment, "nothing is measured after it"


def test_who_answers_for_the_last_token_alone_is_compared_there_like_all_others(benchmarks: None) -> None:
    from speed_peers import _cosine

    whole = {"answer/0": np.array([[[1.0, 0.0], [0.0, 1.0]]], np.float32)}
    last = {"answer/0": np.array([[[0.0, 2.0]]], np.float32)}
    wrong_before = {"answer/0": np.array([[[-1.0, 0.0], [0.0, 1.0]]], np.float32)}
    assert _cosine(last, whole, 2) == pytest.approx(1)
    assert _cosine(wrong_before, whole, 2) == pytest.approx(1)
    assert _cosine(wrong_before, whole, 4) == pytest.approx(0)


def test_nodes_of_a_kind_are_counted_together_the_costliest_first(benchmarks: None) -> None:
    from speed_limits import kinds

    def node(kind: str, time_ns: int, number_format: str = "int8") -> NodeCost:
        return NodeCost(kind, kind, "cpu", time_ns, 10, 1, 1, number_format, limit_ns=time_ns / 2)

    rows = kinds([node("Gemm", 10), node("Add", 50), node("Gemm", 45), node("Gemm", 5, "float32")])
    assert [(row["kind"], row["format"], row["nodes"], row["time_ns"], row["limit_ns"]) for row in rows] == [
        ("Gemm", "int8", 2, 55, 27.5), ("Add", "int8", 1, 50, 25.0), ("Gemm", "float32", 1, 5, 2.5),
    ]  # fmt: skip


def test_the_best_of_the_rounds_counts_and_the_slowest_is_told(benchmarks: None) -> None:
    from speed_limits import Look, highest, under

    def ceilings(gflops: float, memory: float) -> Ceilings:
        return Ceilings({"float32": gflops * 1e9}, memory, 2 * memory, cache_size=1 << 20, cores=2)

    def nodes(time_ns: int) -> tuple[NodeCost, ...]:
        return (
            NodeCost(
                "a",
                "MatMul",
                "cpu",
                time_ns,
                operations=1_000_000,
                weight_bytes=0,
                activation_bytes=0,
                number_format="float32",
            ),
        )

    best = highest([ceilings(10, 3e9), ceilings(5, 4e9)])
    assert best == ceilings(10, 4e9)
    row = under(best, [Look(400_000, nodes(500_000)), Look(250_000, nodes(600_000))])
    assert (row["p50_ns"], row["slowest_ns"], row["profiled_ns"]) == (250_000, 400_000, 500_000)
    assert row["percent_of_limit"] == pytest.approx(40), "a million operations at 10 a nanosecond, in 250 us"


def test_a_goal_against_a_peer_that_failed_is_not_met(benchmarks: None) -> None:
    from peers.contests import Goal
    from speed_peers import contender, judged

    goal = Goal("peer", 2.0)
    without_reference = {"peer": {"failed": None, "cosine": None}, "edgeai": {"failed": None, "cosine": None}}
    for rows in ({"peer": {"failed": "no"}}, without_reference):
        assert contender(goal, rows, Recording()) is None
        assert judged(goal, rows, None, Recording())["met"] == "nothing to compare with"
    far = {"peer": {"failed": None, "cosine": 1.0}, "edgeai": {"failed": None, "cosine": 0.5}}
    assert contender(goal, far, Recording()) is None
    assert judged(goal, far, None, Recording())["met"] == "no: no answer of edgeai's has a cosine of 0.990"


def test_figures_of_two_machines_are_not_mixed(benchmarks: None, tmp_path: Path) -> None:
    from speed_peers import kept

    path = tmp_path / "peers.json"
    assert kept(path) is None
    here = dataclasses.asdict(machine())
    path.write_text(json.dumps({"machine": here, "contests": {"mlp": {}}}))
    found = kept(path)
    assert found is not None and found["contests"] == {"mlp": {}}
    path.write_text(json.dumps({"machine": here | {"cpu": "another"}, "contests": {}}))
    with pytest.raises(SystemExit, match="peers.json was measured on another machine .*another.*a folder beside it"):
        kept(path)


@pytest.mark.parametrize(("arguments", "begins_anew"), [(["--again"], True), ([], False), (["mlp", "--again"], False)])
def test_all_anew_does_not_ask_whose_figures_are_there(
    benchmarks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], begins_anew: bool
) -> None:
    import speed_peers

    path = tmp_path / "peers.json"
    other = dataclasses.asdict(machine()) | {"cpu": "another"}
    path.write_text(json.dumps({"machine": other, "versions": {}, "contests": {"mlp": {}}}))
    here = {"rows": {}, "goals": [], "quick": False}
    monkeypatch.setattr(speed_peers, "CONTESTS", [one for one in speed_peers.CONTESTS if one.name == "mlp"])
    monkeypatch.setattr(speed_peers, "held", lambda contest, versions, quick: here)
    monkeypatch.setattr(sys, "argv", ["speed_peers.py", *arguments, "--json", str(path)])
    if not begins_anew:
        with pytest.raises(SystemExit, match="another machine"):
            speed_peers.main()
        return
    speed_peers.main()
    written = json.loads(path.read_text())
    assert written["contests"] == {"mlp": here} and written["machine"]["cpu"] == machine().cpu


def test_every_goal_is_against_a_runner_of_its_contest(benchmarks: None) -> None:
    from peers.contests import CONTESTS

    for contest in CONTESTS:
        names = [runner.name for runner in contest.runners]
        assert len(set(names)) == len(names)
        for goal in contest.goals:
            assert goal.against in names
            assert any(name.startswith(goal.ours) for name in names)


def test_each_side_is_judged_by_its_best_smaller_file(benchmarks: None) -> None:
    from quantization_peers import FLOAT, METHODS, _Judge, verdict

    signature = Signature((TensorSpec("x", "float32", ("n", 1)),), (TensorSpec("y", "float32", ("n", 2)),))
    judge = _Judge(METRICS["accuracy"], signature, Samples.from_rows({"x": np.zeros((4, 1))}))
    right = {FLOAT: 200, METHODS[0].name: 150, METHODS[1].name: 190, METHODS[3].name: 199, METHODS[4].name: 180}
    rows: dict[str, Any] = {name: {"failed": None, "bytes": 50} for name in right}
    rows[FLOAT]["bytes"] = rows[METHODS[3].name]["bytes"] = 100  # the best peer quantized nothing
    rows[METHODS[5].name] = {"failed": "it fell over"}
    judge._scores = {name: (np.arange(200) < count).astype(float) for name, count in right.items()}
    told = verdict(rows, judge)
    assert told is not None
    assert (told["edgeai"], told["peer"], told["not_below"]) == (METHODS[1].name, METHODS[4].name, True)
    judge._scores[METHODS[1].name] = judge._scores[METHODS[0].name]
    worse = verdict(rows, judge)
    assert worse is not None and not worse["not_below"]
    del rows[METHODS[4].name]
    assert verdict(rows, judge) is None
