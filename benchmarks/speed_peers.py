"""The speed of edgeai and of its peers on the same models, each in its own process, interleaved.

    python benchmarks/peers/environments.py
    python benchmarks/speed_peers.py [NAME ...] [--again] [--quick] [--json PATH]

The contests and their goals stand in peers/contests.py. Weights are random, so beside each latency stands how far the
answers are from the float model's. Leaves `benchmarks/results/peers.json`; contests that are there are kept, unless
named or `--again`. A file has one machine's figures: those of another go to `results/NAME/peers.json`, and get a page
of their own. A peer that fails is a row with what it said. Leave the machine alone while it runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers.contests import CALIBRATION, CONTESTS, COSINE, REFERENCE, SEQUENCE, Contest, Goal, Runner
from peers.environments import command, is_there
from peers.process import Peer, PeerError

import edgeai
from edgeai.bench import Workload
from edgeai.bench.interleave import Recording, interleave
from edgeai.bench.loop import Lane
from edgeai.bench.statistics import Ratio, ratio_of_medians, statistics
from edgeai.cli.console import RichProgress, print_table, to_json
from edgeai.exporting import Source, export, resolve
from edgeai.machine import Machine, machine
from edgeai.metrics import COSINE as COSINE_METRIC
from edgeai.metrics import METRICS
from edgeai.probing import axis_names, size_of
from edgeai.progress import Progress
from edgeai.samples import Samples, load_arrays
from edgeai.spec import Array, Signature
from edgeai.storage import atomic_text

RESULTS = Path(__file__).parent / "results" / "peers.json"
FULL = Workload(min_iterations=100, min_seconds=2.0, max_seconds=12.0, warmup_max_seconds=3.0, rounds=20)
QUICK = dataclasses.replace(FULL, min_iterations=5, min_seconds=0.0, max_seconds=0.5, warmup_max_seconds=0.5, rounds=5)
FEEDS = 4
SUFFIXES = {"nncf-openvino": ".xml", "build": ".bundle", "gguf": ".gguf", "quantized": ".gguf"}

Row = dict[str, Any]


@dataclass(frozen=True)
class Materials:
    """What the runners of a contest get. `inputs` are the float model's, in the order of its arguments."""

    directory: Path
    inputs: tuple[str, ...]
    heads: int
    prompt: list[int]

    @property
    def feeds(self) -> Path:
        return self.directory / "feeds.npz"

    def source(self, peer: str) -> Path:
        return self.directory / {"pytorch": "model.pt2", "llama_cpp": "weights.npz"}.get(peer, "model.onnx")


def main() -> None:
    arguments = _arguments()
    anew = arguments.again and not arguments.names
    data = (None if anew else kept(arguments.json)) or {"versions": {}, "contests": {}}
    there = [] if arguments.again else [n for n, one in data["contests"].items() if one["quick"] == arguments.quick]
    wanted = arguments.names or [contest.name for contest in CONTESTS if contest.name not in there]
    for contest in (contest for contest in CONTESTS if contest.name in wanted):
        versions: dict[str, Any] = {}
        try:
            data["contests"][contest.name] = held(contest, versions, quick=arguments.quick)
        except PeerError as error:  # in the middle of the rounds: they cannot be compared any more
            print(f"{contest.name} is not finished: {error}", file=sys.stderr)
            continue
        except KeyboardInterrupt:
            print(f"{contest.name} is not finished: interrupted; those before it are kept", file=sys.stderr)
            sys.exit(130)
        data["machine"], data["versions"] = to_json(dataclasses.asdict(machine())), data["versions"] | versions
        atomic_text(arguments.json, json.dumps(data, indent=1) + "\n", overwrite=True)
    found = {contest.name: data["contests"][contest.name] for contest in CONTESTS if contest.name in data["contests"]}
    print_table(("contest", "runner", "p50 ms", "MB", "cosine", "first answer s"), list(table(found)))
    print_table(("contest", "goal", "edgeai's", "x as fast (95 %)", "met"), list(goals_table(found)))


def _arguments() -> argparse.Namespace:
    names = [contest.name for contest in CONTESTS]
    parser = argparse.ArgumentParser(description="Measure edgeai against its peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"measured anew, of {', '.join(names)} [default: all]")
    parser.add_argument("--again", action="store_true", help="measure anew what is there")
    parser.add_argument("--quick", action="store_true", help="small models, few runs: only to see that it works")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the results go")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(names):
        parser.error(f"there is no contest {', '.join(sorted(unknown))}")
    return arguments


def kept(path: Path) -> Row | None:
    """What is there, to be added to; None if nothing is. SystemExit if another machine measured it."""
    if not path.exists():
        return None
    data: Row = json.loads(path.read_text())
    if (other := Machine(**data["machine"]).fingerprint) != machine().fingerprint:
        place = path.parent / "NAME" / path.name
        raise SystemExit(
            f"{path} was measured on another machine ({other}): write to a folder beside it, such as {place}"
        )
    return data


def held(contest: Contest, versions: dict[str, Any], *, quick: bool) -> Row:
    """A row for each runner, and how each goal came out."""
    begin = time.monotonic()
    workload = QUICK if quick else FULL
    model = f"{contest.model.partition(':')[0]}:reference" if quick else contest.model
    progress = RichProgress()
    with tempfile.TemporaryDirectory(prefix="edgeai-peers-") as place, ExitStack() as stack:
        materials = prepared(contest, model, Path(place))
        rows: dict[str, Row] = {}
        lanes: dict[str, Peer] = {}
        answers: dict[str, dict[str, Array]] = {}
        with progress.task(f"{contest.name}: preparing", len(contest.runners)) as advance:
            for runner in contest.runners:
                rows[runner.name] = {"peer": runner.peer, "failed": None}
                advance(note=runner.name)
                try:
                    file = made(runner, materials, workload)
                    rows[runner.name] |= {"bytes": _bytes(file)}
                    peer = Peer(runner.name, command(runner.peer), workload=workload)
                    lanes[runner.name] = stack.enter_context(peer)
                    seconds = opened(runner, peer, file, materials)
                    rows[runner.name] |= {"first_answer_seconds": round(seconds, 3)}
                    peer.run(materials.directory / "answers.npz")
                    answers[runner.name] = load_arrays(materials.directory / "answers.npz", "answers")
                    versions[runner.peer] = peer.versions()
                except PeerError as error:
                    rows[runner.name]["failed"] = str(error).replace(f"{place}/", "")
                    lanes.pop(runner.name, None)
        size = min((answer.size for found in answers.values() for answer in found.values()), default=0)
        for name in answers:
            rows[name]["cosine"] = _cosine(answers[name], answers[REFERENCE], size) if REFERENCE in answers else None
        recording, goals = played(contest.goals, rows, lanes, workload, progress)
    for name, blocks in recording.blocks.items():
        samples = [sample for block in blocks for sample in block.samples_ns]
        estimate = statistics(samples)["p50"]
        rows[name] |= {
            "p50_ns": int(np.median(samples)), "interval_ns": [estimate.low, estimate.high], "runs": len(samples),
            "cpu_ns": sum(block.cpu_ns for block in blocks) // len(samples),
            "round_medians_ns": [int(np.median(block.samples_ns)) for block in blocks],
        }  # fmt: skip
    return {
        "model": model, "about": contest.about, "quick": quick, "rows": rows, "goals": goals,
        "minutes": round((time.monotonic() - begin) / 60, 2),
    }  # fmt: skip


def played(
    goals: Sequence[Goal], rows: Mapping[str, Row], lanes: Mapping[str, Lane], workload: Workload, progress: Progress
) -> tuple[Recording, list[Row]]:
    """All in turn, then a final among those that are in a goal, by which the goals are judged.

    Whoever was lucky when all ran is not so twice, and with few lanes the blocks of a pair are close to each other.
    Raises KeyboardInterrupt after Ctrl-C: half a contest is none.
    """
    recording = _whole(interleave(lanes, workload, progress=progress))
    best = [contender(goal, rows, recording) for goal in goals]
    paired = {name for goal, ours in zip(goals, best, strict=True) if ours for name in (goal.against, ours)}
    finalists = {name: lane for name, lane in lanes.items() if name in paired}
    final = _whole(interleave(finalists, longer(workload), progress=progress))
    return recording, [judged(goal, rows, ours, final) for goal, ours in zip(goals, best, strict=True)]


def _whole(recording: Recording) -> Recording:
    if recording.interrupted:
        raise KeyboardInterrupt
    return recording


def longer(workload: Workload) -> Workload:
    """Ten times as much of it: some figures lie within two percent of their goal."""
    kinds = ("min_iterations", "min_seconds", "max_seconds", "rounds")
    return dataclasses.replace(workload, **{kind: 10 * getattr(workload, kind) for kind in kinds})


def prepared(contest: Contest, model: str, directory: Path) -> Materials:
    """The float ONNX file, the same module for PyTorch, its weights for llama.cpp, the inputs and calibration feeds."""
    source = resolve(model)
    assert source.module is not None
    artifact = export(source, out=directory / "model.onnx", progress=RichProgress())
    signature = artifact.signature
    assert signature is not None
    prompt: list[int] = []
    if contest.name == "gpt-decode":
        prompt, feeds = _continued(signature, directory / "model.onnx")
    else:
        feeds = [_feed(signature, seed) for seed in range(FEEDS)]
    Samples.from_feeds(feeds).save(directory / "feeds.npz")
    Samples.from_feeds([_feed(signature, 100 + seed) for seed in range(CALIBRATION)]).save(
        directory / "calibration.npz"
    )
    heads = 0
    if source.is_decoder:
        heads = int(next(spec.shape[1] for spec in signature.inputs if spec.name.startswith("past")))
        weights = {name: tensor.numpy() for name, tensor in source.module.model.state_dict().items()}
        np.savez(directory / "weights.npz", **weights)
    _save_module(source, [feeds[0][name] for name in signature.input_names], directory / "model.pt2")
    return Materials(directory, signature.input_names, heads, prompt)


def _save_module(source: Source, arguments: Sequence[Array], path: Path) -> None:
    assert source.module is not None
    with torch.inference_mode():
        program = torch.export.export(source.module.eval(), tuple(map(torch.from_numpy, arguments)), strict=False)
    torch.export.save(program, path)


def _feed(signature: Signature, seed: int) -> dict[str, Array]:
    """Batch 1, `SEQUENCE` positions, nothing in the cache."""
    wanted = {"batch": 1, "past": 0}
    sizes = {name: wanted.get(name, signature.axis(name).nearest(SEQUENCE)) for name in axis_names(signature)}
    random = np.random.default_rng(seed)
    feed = {}
    for spec in signature.inputs:
        shape = tuple(size_of(axis, sizes) for axis in spec.shape)
        if "mask" in spec.name:
            feed[spec.name] = np.ones(shape, spec.dtype)
        elif "int" in spec.dtype:
            feed[spec.name] = random.integers(spec.low or 0, spec.high or 2, shape).astype(spec.dtype)
        else:
            feed[spec.name] = random.standard_normal(shape).astype(spec.dtype)
    return feed


def _continued(signature: Signature, path: Path) -> tuple[list[int], list[dict[str, Array]]]:
    """A prompt, and feeds of one token each that follow it, with the cache that the float model makes of it."""
    first = _feed(signature, 0)
    with edgeai.load(path, ep="cpu") as session:
        answer = session.run(first)
    past = {name: answer[name.replace("past_key_values", "present")] for name in first if name.startswith("past")}
    prompt = first["input_ids"]
    mask = np.ones((1, prompt.shape[1] + 1), np.int64)
    feeds = [
        {"input_ids": _feed(signature, seed)["input_ids"][:, :1], "attention_mask": mask, **past}
        for seed in range(1, FEEDS + 1)
    ]
    return prompt[0].tolist(), feeds


def made(runner: Runner, materials: Materials, workload: Workload) -> Path:
    """The runner's file; runners with the same recipe share one. Made in a process of its own, which is gone after."""
    maker = runner.maker or runner.peer
    for name in {maker, runner.peer}:
        if not is_there(name):
            raise PeerError(f"there is no environment for {name}: python benchmarks/peers/environments.py {name}")
    if not runner.recipe:
        return materials.source(runner.peer)
    options = dict(runner.recipe_options) | ({"heads": materials.heads} if maker == "llama_cpp" else {})
    key = "-".join([maker, runner.recipe, *(f"{name}={value}" for name, value in options.items() if value is not None)])
    out = materials.directory / (key.replace(" ", "") + SUFFIXES.get(runner.recipe, ".onnx"))
    if not out.exists():
        with Peer(maker, command(maker), workload=workload) as peer:
            calibration = materials.directory / "calibration.npz"
            try:
                peer.quantize(runner.recipe, materials.source(maker), out, calibration, **options)
            except PeerError:
                out.unlink(missing_ok=True)  # half a file is not the next runner's
                raise
    return out


def opened(runner: Runner, peer: Peer, file: Path, materials: Materials) -> float:
    """Seconds to the first answer."""
    options = dict(runner.form_options)
    if runner.peer == "pytorch":
        options["order"] = list(materials.inputs)
    if "prompt" in options:
        options["prompt"] = materials.prompt
    return peer.load(runner.form, file, materials.feeds, **options)


def _cosine(answers: Mapping[str, Array], reference: Mapping[str, Array], size: int) -> float:
    """The least of all feeds. Where some answer for the last token alone, `size` values, all are compared there."""
    cosine = METRICS[COSINE_METRIC].per_sample
    return min(
        float(cosine(answers[key].reshape(1, -1)[:, -size:], wanted.reshape(1, -1)[:, -size:])[0])
        for key, wanted in reference.items()
    )


def _bytes(file: Path) -> int:
    parts = (
        file.rglob("*") if file.is_dir() else file.parent.glob(f"{file.stem}.*") if file.suffix == ".xml" else [file]
    )
    return sum(part.stat().st_size for part in parts if part.is_file())


def contender(goal: Goal, rows: Mapping[str, Row], recording: Recording) -> str | None:
    """edgeai's fastest that is no further from the float model than `COSINE`, or than the peer itself, allows."""
    if (cosine := rows[goal.against].get("cosine")) is None:  # it failed, or there is no float model's answer
        return None
    ours = [
        name for name, row in rows.items()
        if name.startswith(goal.ours) and row["failed"] is None and row["cosine"] >= min(COSINE, cosine)
    ]  # fmt: skip
    return max(ours, key=lambda name: _as_fast(recording, name, goal.against).value, default=None)


def judged(goal: Goal, rows: Mapping[str, Row], best: str | None, final: Recording) -> Row:
    """How many times as fast `best` is in rounds that did not choose it."""
    told: Row = {"against": goal.against, "factor": goal.factor, "edgeai": best, "ratio": None, "rounds": 0}
    cosine = rows[goal.against].get("cosine")
    if cosine is None:
        return told | {"met": "nothing to compare with"}
    if best is None:
        return told | {"met": f"no: no answer of edgeai's has a cosine of {min(COSINE, cosine):.3f}"}
    ratio = _as_fast(final, best, goal.against)
    met = "yes" if ratio.low >= goal.factor else "no" if ratio.high < goal.factor else "not resolved"
    return told | {"ratio": [ratio.value, ratio.low, ratio.high], "rounds": ratio.blocks, "met": met}


def _as_fast(recording: Recording, name: str, against: str) -> Ratio:
    pairs = list(zip(recording.blocks[against], recording.blocks[name], strict=False))
    return ratio_of_medians([a.samples_ns for a, _ in pairs], [b.samples_ns for _, b in pairs])


def table(contests: Mapping[str, Row]) -> Iterator[tuple[str, ...]]:
    for contest, found in contests.items():
        for name, row in found["rows"].items():
            if row["failed"] is not None:
                yield contest, name, "-", "-", "-", f"failed: {row['failed'][:80]}"
                continue
            cosine = "-" if row["cosine"] is None else f"{row['cosine']:.5f}"
            size = f"{row['bytes'] / 1e6:.2f}"
            yield contest, name, f"{row['p50_ns'] / 1e6:.3f}", size, cosine, f"{row['first_answer_seconds']:.2f}"


def goals_table(contests: Mapping[str, Row]) -> Iterator[tuple[str, ...]]:
    for contest, found in contests.items():
        for goal in found["goals"]:
            ratio = "-" if goal["ratio"] is None else "{:.2f} ({:.2f}..{:.2f})".format(*goal["ratio"])
            yield contest, f"{goal['factor']:.2f} x {goal['against']}", goal["edgeai"] or "-", ratio, goal["met"]


if __name__ == "__main__":
    main()
