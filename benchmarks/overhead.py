"""What a session costs over ONNX Runtime: a call on a model of one node, small work that threads share, and opening a
bundle of 90 MB.

Rounds are interleaved block by block, so that what disturbs one subject disturbs all. Leaves
`benchmarks/results/overhead.json` at full size. Leave the machine alone while it runs.

    python benchmarks/overhead.py [--rounds 10] [--calls 20000] [--megabytes 90]
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import edgeai
from edgeai.artifact import Artifact
from edgeai.bundle import open_bundle, pack
from edgeai.cli.console import print_table
from edgeai.machine import machine
from edgeai.ort import onnxruntime
from edgeai.runtime.session import Session
from edgeai.storage import atomic_text

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "overhead.json"
FULL = {"rounds": 10, "calls": 20_000, "megabytes": 90}
LOADS = 3  # in each round
BLOCK = 1000  # calls of one subject before the next one has its turn
WIDTH = 1024
ONE_NODE = "d (float[batch,3] x) => (float[batch,3] y) <float two = {2}> { y = Mul(x, two) }"
CONVOLUTIONS, CHANNELS, SIDE = 4, 16, 24
GAPS_MS = (0.0, 2.0)  # between two runs: in the longer one threads fall asleep, or keep the cores busy
LIMITS = {"run": 1.15, "run_bound": 0.9, "threads": 1.15, "load_adds_ms": 5.0, "hashing_share": 0.10}


def interleaved(subjects: dict[str, Callable[[], Any]], *, rounds: int, calls: int) -> dict[str, list[float]]:
    """Nanoseconds a call of each subject, one figure a round."""
    samples: dict[str, list[float]] = {name: [] for name in subjects}
    for call in subjects.values():
        for _ in range(min(calls, BLOCK)):
            call()
    for _ in range(rounds):
        spent = dict.fromkeys(subjects, 0)
        for begin in range(0, calls, BLOCK):
            block = min(BLOCK, calls - begin)
            for name, call in subjects.items():
                start = time.perf_counter_ns()
                for _ in range(block):
                    call()
                spent[name] += time.perf_counter_ns() - start
        for name, total in spent.items():
            samples[name].append(total / calls)
    return samples


def measure_calls(directory: Path, *, rounds: int, calls: int) -> dict[str, Any]:
    path = directory / "one.onnx"
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {ONE_NODE}'), path)
    x = np.ones((2, 3), np.float32)
    feed = {"x": x}
    with Session(path, ep="cpu") as session:
        # The very session underneath: same model, same options, same threads.
        raw, names = session._session, ["y"]
        binding = session.bind({"x": x})
        subjects = {
            "InferenceSession.run": lambda: raw.run(names, feed),
            "run": lambda: session.run(feed),
            "run_bound": lambda: session.run_bound(binding),
        }
        samples = interleaved(subjects, rounds=rounds, calls=calls)
    base = statistics.median(samples["InferenceSession.run"])
    return {
        name: {
            "median_ns": round(statistics.median(rows)),
            "ratio": round(statistics.median(rows) / base, 3),
            "samples_ns": [round(row) for row in rows],
        }
        for name, rows in samples.items()
    }


def write_convolutions(path: Path) -> None:
    shape = [CHANNELS, CHANNELS, 3, 3]
    random = np.random.default_rng(0)
    weights = [
        onnx.numpy_helper.from_array(random.standard_normal(shape, np.float32) / 12, f"w{i}")
        for i in range(CONVOLUTIONS)
    ]
    names = ["x", *(f"h{i}" for i in range(1, CONVOLUTIONS)), "y"]
    nodes = [
        onnx.helper.make_node("Conv", [names[i], f"w{i}"], [names[i + 1]], pads=[1, 1, 1, 1])
        for i in range(CONVOLUTIONS)
    ]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, CHANNELS, SIDE, SIDE])
        for name in ("x", "y")
    ]
    graph = onnx.helper.make_graph(nodes, "convolutions", ends[:1], ends[1:], weights)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)


def measure_threads(directory: Path, *, rounds: int) -> list[dict[str, Any]]:
    """In a loop and with pauses: microseconds a run, and how many cores the process keeps busy, each in ORT's defaults
    and in ours.
    """
    path = directory / "convolutions.onnx"
    write_convolutions(path)
    raw = onnxruntime().InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = {"x": np.ones((1, CHANNELS, SIDE, SIDE), np.float32)}
    with Session(path, ep="cpu") as session:
        subjects: dict[str, Callable[[], Any]] = {
            "InferenceSession": lambda: raw.run(["y"], feed),
            "Session": lambda: session.run(feed),
        }
        return [_with_gaps(subjects, gap_ms, rounds) for gap_ms in GAPS_MS]


def _with_gaps(subjects: dict[str, Callable[[], Any]], gap_ms: float, rounds: int) -> dict[str, Any]:
    medians: dict[str, list[float]] = {name: [] for name in subjects}
    wall, cpu = dict.fromkeys(subjects, 0.0), dict.fromkeys(subjects, 0.0)
    for _ in range(3 * rounds):
        for name, call in subjects.items():
            time.sleep(0.05)  # the other's threads have to fall asleep
            samples = []
            begin, busy = time.perf_counter(), time.process_time()
            for _ in range(100):
                start = time.perf_counter_ns()
                call()
                samples.append((time.perf_counter_ns() - start) / 1e3)
                if gap_ms:
                    time.sleep(gap_ms / 1e3)
            wall[name] += time.perf_counter() - begin
            cpu[name] += time.process_time() - busy
            medians[name].append(statistics.median(samples))
    ratios = [b / a for a, b in zip(*medians.values(), strict=True)]
    return {"gap_ms": gap_ms, "ratio": round(statistics.median(ratios), 3)} | {
        name: {"median_us": round(statistics.median(medians[name]), 1), "cores": round(cpu[name] / wall[name], 2)}
        for name in subjects
    }


def write_chain(path: Path, megabytes: int) -> None:
    weights = [
        onnx.numpy_helper.from_array(np.random.default_rng(i).standard_normal((WIDTH, WIDTH), np.float32), f"w{i}")
        for i in range(max(1, round(megabytes * 1e6 / (4 * WIDTH**2))))
    ]
    last = len(weights) - 1
    nodes = [
        onnx.helper.make_node("MatMul", [f"h{i}" if i else "x", f"w{i}"], ["y" if i == last else f"h{i + 1}"])
        for i in range(len(weights))
    ]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", WIDTH]) for name in ("x", "y")]
    graph = onnx.helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)


def measure_loading(directory: Path, *, rounds: int, megabytes: int) -> dict[str, Any]:
    """Milliseconds to create a session, to open it from a bundle that was checked, and with checking every byte."""
    path, packed = directory / "chain.onnx", directory / "chain.bundle"
    write_chain(path, megabytes)
    with Session(path, ep="cpu") as session:
        pack(Artifact(path, signature=session.signature), packed)
        settings = session.settings
    bundle = open_bundle(packed)
    ort = onnxruntime()

    def create() -> None:
        ort.InferenceSession(str(bundle.model_path), settings.apply(ort), providers=["CPUExecutionProvider"])

    def opened() -> None:
        edgeai.load(bundle, ep="cpu", settings=settings).close()

    def loaded() -> None:
        edgeai.load(packed, ep="cpu", settings=settings).close()

    subjects = {"InferenceSession": create, "checked bundle": opened, "edgeai.load": loaded}
    samples: dict[str, list[float]] = {name: [] for name in subjects}
    for turn in range(LOADS * rounds + 1):
        for name, call in subjects.items():
            start = time.perf_counter_ns()
            call()
            if turn:  # the first one of each warms the page cache
                samples[name].append((time.perf_counter_ns() - start) / 1e6)
    medians = {name: statistics.median(rows) for name, rows in samples.items()}
    # Of each round, since the machine's speed changes from one to the next.
    created, opened_ms, loaded_ms = samples.values()
    added = [b - a for a, b in zip(created, opened_ms, strict=True)]
    shares = [b / a - 1 for a, b in zip(created, loaded_ms, strict=True)]
    return {
        "model_bytes": path.stat().st_size,
        "median_ms": {name: round(value, 2) for name, value in medians.items()},
        "load_adds_ms": round(statistics.median(added), 2),
        "hashing_share": round(statistics.median(shares), 3),
        "samples_ms": {name: [round(row, 2) for row in rows] for name, rows in samples.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in FULL.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    asked = vars(parser.parse_args())
    with tempfile.TemporaryDirectory() as directory:
        calls = measure_calls(Path(directory), rounds=asked["rounds"], calls=asked["calls"])
        threads = measure_threads(Path(directory), rounds=asked["rounds"])
        loading = measure_loading(Path(directory), rounds=asked["rounds"], megabytes=asked["megabytes"])
    found = {
        "run": calls["run"]["ratio"],
        "run_bound": calls["run_bound"]["ratio"],
        "threads": threads[0]["ratio"],
        "load_adds_ms": loading["load_adds_ms"],
        "hashing_share": loading["hashing_share"],
    }
    data = {
        "schema": "edgeai.overhead/1",
        "machine": {"cpu": machine().cpu, "cores": machine().cores, "features": machine().features},
        "versions": machine().versions,
        "asked": asked,
        "limits": LIMITS,
        "found": found,
        "calls": calls,
        "threads": threads,
        "loading": loading,
    }
    if asked == FULL:
        atomic_text(RESULTS, json.dumps(data, indent=1) + "\n", overwrite=True)
    rows = [
        (name, f"{found[name]:g}", f"{limit:g}", "yes" if found[name] <= limit else "NO")
        for name, limit in LIMITS.items()
    ]
    print_table(("", "found", "limit", "kept"), rows)
    if any(found[name] > limit for name, limit in LIMITS.items()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
