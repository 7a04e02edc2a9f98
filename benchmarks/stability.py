"""Does a session stay what it was: 16 threads with mixed shapes, a burst, and many sessions over one model.

Each part runs in a process of its own, so that what is measured is its own. Leaves
`benchmarks/results/stability.json` at full size.

    python benchmarks/stability.py [--threads 16] [--runs 10000]
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from overhead import write_chain

from edgeai.cli.console import print_table
from edgeai.machine import machine
from edgeai.runtime.pool import SessionPool
from edgeai.runtime.session import Session
from edgeai.runtime.settings import SessionSettings
from edgeai.storage import atomic_text

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "stability.json"
FULL = {"threads": 16, "runs": 10_000}
ROUNDS = 10
BURST = 64
SIDE = 64
SHARED_MEGABYTES = 64
SESSIONS = 4


def held() -> dict[str, int]:
    """What this process holds now (Linux): resident bytes, open files, threads."""
    time.sleep(0.1)  # threads that were joined are in the kernel's list for a moment more
    with open("/proc/self/statm") as stream:
        rss = int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return {
        "rss_bytes": rss,
        "open_files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
    }


def write_convolutions(path: Path) -> None:
    """Four convolutions over (batch, 3, side, side), with 32 channels between them."""
    random = np.random.default_rng(0)
    weights = [0.1 * random.standard_normal((32, channels, 3, 3), np.float32) for channels in (3, 32, 32, 32)]
    last = len(weights) - 1
    nodes = [
        onnx.helper.make_node(
            "Conv", [f"h{i}" if i else "x", f"w{i}"], ["y" if i == last else f"h{i + 1}"], pads=[1, 1, 1, 1]
        )
        for i in range(len(weights))
    ]
    float32 = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes, "convolutions",
        [onnx.helper.make_tensor_value_info("x", float32, ["batch", 3, "height", "width"])],
        [onnx.helper.make_tensor_value_info("y", float32, ["batch", 32, "height", "width"])],
        [onnx.numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)],
    )  # fmt: skip
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)


def many_threads(path: Path, threads: int, runs: int) -> dict[str, Any]:
    """Answers of threads with mixed shapes against those of one thread, bit for bit."""
    random = np.random.default_rng(1)
    feeds = [
        {"x": random.standard_normal((int(random.integers(1, 4)), 3, int(random.integers(4, 13)), 8), np.float32)}
        for _ in range(32)
    ]
    with Session(path, ep="cpu") as session:
        expected = [session.run(feed)["y"] for feed in feeds]
        mismatches = [0] * threads

        def work(index: int) -> None:
            draw = np.random.default_rng(index)
            for _ in range(runs // ROUNDS):
                chosen = int(draw.integers(len(feeds)))
                mismatches[index] += not np.array_equal(session.run(feeds[chosen])["y"], expected[chosen])

        history = []
        for _ in range(ROUNDS):
            workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            history.append(held())
    return {
        "runs": threads * (runs // ROUNDS) * ROUNDS,
        "mismatches": sum(mismatches),
        # The first round fills arenas and thread caches.
        "rss_grows": round(history[-1]["rss_bytes"] / history[1]["rss_bytes"] - 1, 4),
        "open_files_grow": history[-1]["open_files"] - history[1]["open_files"],
        "threads_grow": history[-1]["threads"] - history[1]["threads"],
        "history": history,
    }


def burst(path: Path, runs: int, shrink: Any) -> dict[str, Any]:
    one, many = (np.zeros((batch, 3, SIDE, SIDE), np.float32) for batch in (1, BURST))
    with Session(path, ep="cpu", settings=SessionSettings(shrink=shrink)) as session:
        for _ in range(50):
            session.run({"x": one})
        before = held()
        session.run({"x": many})
        after_burst = held()
        for _ in range(runs):
            session.run({"x": one})
        after = held()
    return {
        "shrink": shrink,
        "before": before["rss_bytes"],
        "after_burst": after_burst["rss_bytes"],
        "after": after["rss_bytes"],
        "rss_grows": round(after["rss_bytes"] / before["rss_bytes"] - 1, 4),
    }


def weights(path: Path, pooled: bool) -> int:
    """Bytes that it takes to answer in so many threads at once: one pool, or a session for each."""
    before = held()["rss_bytes"]
    feed = {"x": np.zeros((1, 1024), np.float32)}
    if pooled:
        with SessionPool(path, size=SESSIONS, ep="cpu") as pool:
            list(pool.map([feed] * 100))
            return held()["rss_bytes"] - before
    sessions = [Session(path, ep="cpu", settings=SessionSettings(threads=1)) for _ in range(SESSIONS)]
    for session in sessions:
        session.run(feed)
    return held()["rss_bytes"] - before


def apart(function: Any, *arguments: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in FULL.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    asked = vars(parser.parse_args())
    if asked["runs"] < ROUNDS:
        parser.error(f"--runs must be at least {ROUNDS}: with none there is nothing to see")
    with tempfile.TemporaryDirectory() as directory:
        path, chain = Path(directory, "convolutions.onnx"), Path(directory, "chain.onnx")
        write_convolutions(path)
        write_chain(chain, SHARED_MEGABYTES)
        soak = apart(many_threads, path, asked["threads"], asked["runs"])
        bursts = [apart(burst, path, asked["runs"], shrink) for shrink in ("burst", "never")]
        shared = {
            "weights_bytes": chain.stat().st_size,
            "pool_bytes": apart(weights, chain, True),
            "sessions_bytes": apart(weights, chain, False),
        }
    kept = {
        "no mismatch": soak["mismatches"] == 0,
        "open files and threads flat": max(soak["open_files_grow"], soak["threads_grow"]) <= 0,
        "memory flat (5 %)": soak["rss_grows"] <= 0.05,
        "memory back within 20 % after a burst": bursts[0]["rss_grows"] <= 0.2,
    }
    data = {
        "schema": "edgeai.stability/1",
        "machine": {"cpu": machine().cpu, "cores": machine().cores, "memory_bytes": machine().memory_bytes},
        "versions": machine().versions,
        "asked": asked,
        "kept": kept,
        "threads": soak,
        "bursts": bursts,
        "shared_weights": shared,
    }
    if asked == FULL:
        atomic_text(RESULTS, json.dumps(data, indent=1) + "\n", overwrite=True)
    rows = [
        ("runs, mismatches", f"{soak['runs']}, {soak['mismatches']}"),
        ("RSS, files, threads grow", f"{soak['rss_grows']:.1%}, {soak['open_files_grow']}, {soak['threads_grow']}"),
        *((f"RSS after a burst, shrink={row['shrink']}", f"{row['rss_grows']:+.1%}") for row in bursts),
        (
            f"{SESSIONS} at once over {shared['weights_bytes'] / 1e6:.0f} MB: pool",
            f"{shared['pool_bytes'] / 1e6:.0f} MB",
        ),
        ("the same with a session each", f"{shared['sessions_bytes'] / 1e6:.0f} MB"),
    ]
    print_table(("", "found"), rows)
    if missed := [name for name, held_ in kept.items() if not held_]:
        raise SystemExit(f"not kept: {', '.join(missed)}")


if __name__ == "__main__":
    main()
