"""How close the forms that won the contests come to what this machine can do, and what takes their time.

    python benchmarks/speed_peers.py
    python benchmarks/speed_limits.py [NAME ...]

The fastest of edgeai's forms on the CPU provider, and ONNX Runtime's float session, are made again and profiled node by
node. The limit of a node is the time that this machine's measured ceilings allow it (`edgeai.roofline`): its
multiply-adds at the rate of a large product, or its bytes at the rate of the memory or the cache. Machines change their
speed from minute to minute, so each round measures the ceilings, the latencies and the nodes one right after the other;
what is told is the median round, and how far apart the rounds were. Leaves `benchmarks/results/speed_limits.json`;
contests that are not named stay as they are. Leave the machine alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peers.contests import CONTESTS, REFERENCE, Contest, Runner
from peers.environments import EDGEAI
from speed_peers import QUICK, RESULTS, made, prepared

import edgeai
from edgeai.bench.limits import NodeCost, limited, roofline
from edgeai.cli.console import print_table, to_json
from edgeai.machine import machine
from edgeai.roofline import GraphProfiler, measure_ceilings
from edgeai.runtime.settings import SessionSettings
from edgeai.samples import Samples
from edgeai.spec import Feed
from edgeai.storage import atomic_text

OUT = RESULTS.with_name("speed_limits.json")
KINDS = 8
ROUNDS = 3
SECONDS = 1.0  # of a latency in a round

Row = dict[str, Any]


def main() -> None:
    names = [contest.name for contest in CONTESTS]
    parser = argparse.ArgumentParser(description="Profile the contests' winners and put them under the roofline.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)} [default: all]")
    wanted = parser.parse_args().names or names
    if unknown := set(wanted) - set(names):
        parser.error(f"there is no contest {', '.join(sorted(unknown))}")
    held = json.loads(RESULTS.read_text())["contests"]
    data: Row = json.loads(OUT.read_text()) if OUT.exists() else {"contests": {}}
    for contest in (contest for contest in CONTESTS if contest.name in wanted and contest.name in held):
        data["contests"][contest.name] = looked_at(contest, held[contest.name])
        data["machine"] = to_json(dataclasses.asdict(machine()))
        atomic_text(OUT, json.dumps(data, indent=1) + "\n", overwrite=True)
    rows = [
        (
            name,
            runner,
            f"{row['p50_ns'] / 1e6:.3f}",
            f"{row['percent_of_limit']:.0f} % ({low:.0f}..{high:.0f})",
            row["bound"],
        )
        for name, found in data["contests"].items()
        for runner, row in found["forms"].items()
        for low, high in [row["percent_range"]]
    ]
    print_table(("contest", "form", "p50 ms", "of the limit", "bound by"), rows)


def looked_at(contest: Contest, found: Row) -> Row:
    """The ceilings, and under them the float session and edgeai's fastest on the CPU provider."""
    times = {name: row["p50_ns"] for name, row in found["rows"].items() if row["failed"] is None}
    ours = [runner for runner in contest.runners if runner.peer == EDGEAI and runner.name in times]
    fastest = min(ours, key=lambda runner: times[runner.name])
    wanted = [runner for runner in contest.runners if runner.name in (REFERENCE, fastest.name)]
    with tempfile.TemporaryDirectory(prefix="edgeai-limits-") as place:
        materials = prepared(contest, contest.model, Path(place))
        feed = next(Samples.load(materials.feeds).feeds())
        files = [(runner, made(runner, materials, QUICK)) for runner in wanted]
        rounds = [one_round(files, feed) for _ in range(ROUNDS)]
    percents = [found["forms"][fastest.name]["percent_of_limit"] for found in rounds]
    middle = rounds[percents.index(statistics.median_low(percents))]
    for name, row in middle["forms"].items():
        every = [found["forms"][name]["percent_of_limit"] for found in rounds]
        row["percent_range"] = [min(every), max(every)]
    return middle


def one_round(files: Sequence[tuple[Runner, Path]], feed: Feed) -> Row:
    ceilings = measure_ceilings()
    profiler = GraphProfiler(ceilings)
    forms = {}
    for runner, file in files:
        settings = settings_of(runner)
        p50_ns = latency(file, feed, settings)
        nodes = profiler.nodes(file, feed, settings)
        roof = roofline(nodes, ceilings, latency_ns=p50_ns)
        weights = sum(node.weight_bytes for node in nodes)
        known = [limited(node, ceilings, model_weight_bytes=weights) for node in nodes]
        forms[runner.name] = {
            "p50_ns": roof.latency_ns, "limit_ns": roof.limit_ns, "percent_of_limit": roof.percent_of_limit,
            "bound": roof.bound, "operations": roof.operations, "weight_bytes": roof.weight_bytes,
            "profiled_ns": roof.profiled_ns, "kinds": kinds(known),
        }  # fmt: skip
    return {"ceilings": dataclasses.asdict(ceilings), "forms": forms}


def latency(file: Path, feed: Feed, settings: SessionSettings | None) -> float:
    """Median nanoseconds, without a profiler."""
    samples = []
    with edgeai.load(file, ep="cpu", settings=settings) as session:
        session.warm_up([feed] * 5)
        end = time.perf_counter() + SECONDS
        while (begin := time.perf_counter()) < end:
            session.run(feed)
            samples.append(1e9 * (time.perf_counter() - begin))
    return statistics.median(samples)


def settings_of(runner: Runner) -> SessionSettings | None:
    """As in the contest; the float session in edgeai's defaults, which differ in how long threads spin."""
    told = runner.form_options.get("settings") if runner.peer == EDGEAI else None
    assert told is None or isinstance(told, dict)
    return SessionSettings.from_json(told) if told else None


def kinds(nodes: Sequence[NodeCost]) -> list[Row]:
    """Nodes of one kind and number format together, the costliest kinds first."""
    together: dict[tuple[str, str], list[NodeCost]] = defaultdict(list)
    for node in nodes:
        together[node.op_type, node.number_format].append(node)
    rows = [
        {
            "kind": kind, "format": number_format, "nodes": len(some), "time_ns": sum(node.time_ns for node in some),
            "limit_ns": sum(node.limit_ns for node in some),
        }
        for (kind, number_format), some in together.items()
    ]  # fmt: skip
    return sorted(rows, key=lambda row: -row["time_ns"])[:KINDS]


if __name__ == "__main__":
    main()
