"""Can the benchmark see what is there, and nothing else? A known slowdown is planted, twenty times, and none, twenty.

    python benchmarks/planted_regression.py            writes results/planted_regression.json

An engine multiplies matrices N times, the planted one N + 10 % times. Each trial asks both judges: `edgeai bench A B`
(interleaved; wrong is: no `slower` for a planted slowdown, a verdict for none) and `edgeai compare old new --fail-if
p50+5%` (two runs, one after the other; wrong is: no `regressed` for a planted slowdown, `regressed` for none).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edgeai.bench import Report, Subject, Workload, measure
from edgeai.bench.compare import REGRESSED, Rule, compare
from edgeai.bench.noise import observe
from edgeai.bench.statistics import NOT_RESOLVED, SLOWER
from edgeai.machine import machine
from edgeai.samples import Samples
from edgeai.spec import Array, Feed, Signature, TensorSpec
from edgeai.storage import atomic_text

RESULT = Path(__file__).parent / "results" / "planted_regression.json"
PRODUCTS = 50
PLANTED = 0.10
RULE = "p50+5%"


class Products:
    """Multiplies its input with one matrix, again and again: about a millisecond at 50 times."""

    signature = Signature((TensorSpec("x", "float32", ("batch", 128)),), (TensorSpec("y", "float32", ("batch", 128)),))

    def __init__(self, count: int) -> None:
        self._count = count
        self._weight = np.eye(128, dtype=np.float32)

    def run(self, feed: Feed) -> dict[str, Array]:
        y = feed["x"]
        for _ in range(self._count):
            y = y @ self._weight
        return {"y": y}

    def close(self) -> None:
        return


def products(count: int) -> Products:
    """What the worker processes build."""
    return Products(count)


def subject(name: str, share: float) -> Subject:
    return Subject(name, "planted_regression:products", {"count": round(PRODUCTS * (1 + share))})


def trial(share: float, samples: Path, workload: Workload, seed: int) -> dict[str, Any]:
    """Both judges' words on a slowdown of `share`."""
    together = measure([subject("plain", 0), subject("changed", share)], samples, workload, seed=seed)
    old = measure([subject("engine", 0)], samples, workload, seed=seed)
    new = measure([subject("engine", share)], samples, workload, seed=seed)
    gate = compare(old, new, rules=[Rule.parse(RULE)], seed=seed)
    word, planted = together["changed"].verdict, share > 0
    return {
        "planted": share,
        "bench": {"verdict": word, **ratio(together), "wrong": word != (SLOWER if planted else NOT_RESOLVED)},
        "compare": {
            "verdict": gate.verdict,
            "ratio": dataclasses.asdict(gate.changes[0].ratio) if gate.changes[0].ratio else None,
            "wrong": (gate.verdict == REGRESSED) != planted,
        },
        "noise": together.disturbance.verdict,
    }


def ratio(report: Report) -> dict[str, Any]:
    found = report["changed"].ratio
    return {"ratio": dataclasses.asdict(found) if found else None}


def main() -> int:
    """Print each trial, write the JSON; 1 if a judge was wrong more than once in either twenty."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=2.0, help="measured time of each engine")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error("--repeats must be at least 1: a judge that is never asked is never wrong")
    workload = Workload(
        min_iterations=200, min_seconds=arguments.seconds, warmup_max_seconds=1.0, rounds=50, processes=5
    )
    before, trials = observe(), []
    with tempfile.TemporaryDirectory() as directory:
        samples = Path(directory) / "x.npz"
        rows = np.random.default_rng(0).standard_normal((8, 128)).astype(np.float32)
        Samples.from_rows({"x": rows}).save(samples)
        for seed in range(arguments.repeats):
            for share in (0.0, PLANTED):
                trials.append(trial(share, samples, workload, seed))
                print(json.dumps(trials[-1]), flush=True)
    wrong = {
        judge_name: {
            f"{share:.0%}": sum(t[judge_name]["wrong"] for t in trials if t["planted"] == share)
            for share in (0.0, PLANTED)
        }
        for judge_name in ("bench", "compare")
    }
    after = observe()
    data = {
        "wrong": wrong,
        "repeats": arguments.repeats,
        "rule": RULE,
        "workload": dataclasses.asdict(workload),
        "machine": dataclasses.asdict(machine()),
        "noise": [dataclasses.asdict(look) for look in (before, after)],
        "trials": trials,
    }
    atomic_text(arguments.out, json.dumps(data, indent=1) + "\n", overwrite=True)
    print(json.dumps(wrong))
    return int(any(count > 1 for counts in wrong.values() for count in counts.values()))


if __name__ == "__main__":
    # The workers import this file by its name.
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(main())
