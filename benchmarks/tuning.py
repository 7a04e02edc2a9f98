"""Does `edgeai tune` find in minutes what an exhaustive sweep finds in an hour? On one model, bert by default.

    python benchmarks/tuning.py [FAMILY] [--budget SECONDS] [--sweep SECONDS] [--quick] [--out results.json]

The sweep makes every file that tuning knows for the CPU, judges each one's accuracy, and measures every combination of
its settings with the whole workload: each fusion that fires on or off, threads, spinning, arena; then the best ones
again, together. Tuning runs first and knows nothing of it. In the end the two choices and the plain float session are
measured in one interleaved run, spread over minutes, since a host may change its speed from one to the next: the
ratio tuned / swept is the figure, and the time that each took. Needs what `make demo` leaves in `demo/trained`. Leave
the machine alone while it runs; `--sweep` bounds the sweep, and what it left out is counted.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from edgeai import bench
from edgeai.caching import with_empty_cache
from edgeai.cli.console import RichProgress
from edgeai.exporting import export, resolve
from edgeai.machine import machine
from edgeai.metrics import METRICS
from edgeai.runtime.loading import load
from edgeai.runtime.remembered import RememberedEngine
from edgeai.samples import Samples
from edgeai.storage import atomic_text
from edgeai.tuning import OBJECTIVES, Plan, Point, Space
from edgeai.tuning.candidates import plans, points, variants
from edgeai.tuning.countdown import Countdown
from edgeai.tuning.data import Data
from edgeai.tuning.exploring import Explored
from edgeai.tuning.journal import Journal
from edgeai.tuning.objective import figures
from edgeai.tuning.timing import save_inputs, subject
from edgeai.tuning.tuner import WORKLOAD, search
from edgeai.tuning.workbench import Workbench

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "tuning.json"
MAX_DROP = 0.005
ALLOWED_RATIO, ALLOWED_SHARE = 1.03, 0.2
QUICK = bench.Workload(
    min_iterations=20, max_iterations=40, min_seconds=0.05, max_seconds=0.5, warmup_min_seconds=0.05,
    warmup_max_seconds=0.3, settle_seconds=0, rounds=5,
)  # fmt: skip
FINAL = dataclasses.replace(WORKLOAD, min_seconds=15.0, max_seconds=30.0, rounds=60, settle_seconds=1.0)
AGAIN = 6  # whole measurements in one, of the sweep's best


def settings_of(point: Point, fired: list[str], cores: int) -> list[Point]:
    """The full product of what tuning tries one by one."""
    subsets = [some for n in range(len(fired) + 1) for some in itertools.combinations(fired, n)]
    counts = (variant.settings.threads for variant in variants(point, (), cores))
    threads = [None, *(count for count in counts if count)]
    return [
        dataclasses.replace(
            point,
            settings=dataclasses.replace(
                point.settings, disabled_optimizers=off, threads=count, spinning=spinning, arena=arena
            ),
        )
        for off, count, spinning, arena in itertools.product(subsets, threads, (True, False), (True, False))
    ]


def sweep(lab: Workbench, seconds: float) -> dict[str, Any]:
    """Everything, measured whole, in groups; the fastest whose accuracy holds."""
    start = time.monotonic()
    refused: dict[str, str | None] = {}
    wanted: list[Point] = []
    for plan in [Plan(), *plans()]:
        reason = "" if plan == Plan() else lab.make(plan)
        if reason != "":
            refused[plan.name] = reason
            continue
        (point,) = points(plan, ("cpu",))
        if plan != Plan() and (judged := lab.judge(point)).refused:
            refused[plan.name] = judged.refused
            continue
        wanted += settings_of(point, lab.fired(point), machine().cores)
    wanted = [point for point in wanted if point != Point()]
    found: dict[str, float] = {}
    kept = {point.name: point for point in wanted}
    group = lab.group(wanted)
    for begin in range(0, len(wanted), group):
        if time.monotonic() - start > seconds:
            break
        some = wanted[begin : begin + group]
        measured = lab.measure(some, 1.0)
        found |= {point.name: cost[0] for point in some if (cost := measured[point.name].cost) is not None}
        left = (len(wanted) - begin - len(some)) * (time.monotonic() - start) / (begin + len(some))
        print(f"swept {begin + len(some)} of {len(wanted)}, about {left / 60:.0f} min left", flush=True)
    ranked = sorted(found.items(), key=lambda item: item[1])
    again = lab.measure([kept[name] for name, _ in ranked[: lab.group(wanted)]], AGAIN)
    costs = {name: one.cost[0] for name, one in again.items() if one.cost is not None}
    best = min(costs, key=costs.__getitem__, default=Point().name)
    return {
        "best": kept[best] if costs.get(best, 1.0) < 1 else Point(),
        "seconds": time.monotonic() - start,
        "points": len(wanted),
        "measured": len(found),
        "refused": refused,
        "ten best": ranked[:10],
        "best again": sorted(costs.items(), key=lambda item: item[1]),
    }


def explored_json(explored: Explored) -> list[dict[str, Any]]:
    rows = []
    for trial in explored.trials:
        cost = trial.figures.cost if trial.figures else None
        rows.append({"name": trial.name, "cost": cost, "reason": trial.reason})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", nargs="?", default="bert")
    parser.add_argument("--budget", type=float, default=300.0, help="seconds for tuning")
    parser.add_argument("--sweep", type=float, default=float("inf"), help="seconds for the sweep at most")
    parser.add_argument("--quick", action="store_true", help="only to see that it works")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    workload, last = (QUICK, QUICK) if options.quick else (WORKLOAD, FINAL)
    progress, latency = RichProgress(), OBJECTIVES["latency"]
    source = resolve(str(ROOT / "demo" / "trained" / options.family))
    parts = {kind: with_empty_cache(Samples.load(path), source.signature) for kind, path in source.samples.items()}
    assert source.metric is not None
    data = Data(parts["calibration"], parts["scoring"], parts["golden"], METRICS[source.metric])
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        baseline = export(source, out=directory / "fp32.onnx", progress=progress)
        with load(baseline.path, ep="cpu") as session:
            reference = RememberedEngine(session)
            (directory / "tune").mkdir()
            tuned = search(
                baseline, reference, data, directory / "tune", max_drop=MAX_DROP, space=Space(), workload=workload,
                countdown=Countdown(options.budget, progress=progress), progress=progress,
            )  # fmt: skip
            (directory / "sweep").mkdir()
            lab = Workbench(
                baseline, reference, data, directory / "sweep", objective=latency, workload=workload,
                max_drop=MAX_DROP, countdown=Countdown(None), journal=Journal(None, None), progress=progress,
            )  # fmt: skip
            swept = sweep(lab, options.sweep)
        chosen, best = tuned.explored.chosen.point, swept["best"]
        runs = {"swept": (best, lab.paths[best.plan.name]), "tuned": (chosen, tuned.artifact.path)}
        subjects = [
            subject(label, path, provider=point.provider, settings=point.settings)
            for label, (point, path) in runs.items()
        ]
        subjects.append(subject("fp32", baseline.path))
        inputs = save_inputs(data.scoring, directory / "timed.npz")
        report = bench.measure(subjects, inputs, last, progress=progress)
        found = figures(report, latency, effort=1.0)
    ratio = found["tuned"].cost
    assert ratio is not None
    share = tuned.seconds / swept["seconds"]
    result = {
        "machine": dataclasses.asdict(machine()),
        "load_average": os.getloadavg(),
        "quick": options.quick,
        "family": options.family,
        "budget_seconds": options.budget,
        "workload": dataclasses.asdict(workload),
        "tuned": {
            "chosen": chosen.name, "seconds": tuned.seconds, "p50_ns": found["tuned"].p50_ns,
            "trials": explored_json(tuned.explored),
        },
        "swept": {**swept, "best": best.name, "p50_ns": found["swept"].p50_ns},
        "fp32_p50_ns": found["fp32"].p50_ns,
        "tuned_over_swept": ratio,
        "share_of_the_time": share,
        "holds": {"ratio": ratio[0] <= ALLOWED_RATIO, "time": share <= ALLOWED_SHARE},
    }  # fmt: skip
    atomic_text(options.out, json.dumps(result, indent=1) + "\n", overwrite=True)
    print(f"tuned: {chosen.name} in {tuned.seconds:.0f} s; swept: {best.name} in {swept['seconds']:.0f} s")
    print("tuned / swept: {:.3f} ({:.3f}..{:.3f})".format(*ratio) + f"; share of the time {share:.2f}")


if __name__ == "__main__":
    main()
