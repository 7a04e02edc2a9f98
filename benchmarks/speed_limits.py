"""How close the forms that won the contests come to what this machine can do, and what takes their time.

    python benchmarks/speed_peers.py
    python benchmarks/speed_limits.py [NAME ...] [--peers PATH]

The fastest of edgeai's forms on the CPU provider, and ONNX Runtime's float session, are made again, timed by the
drivers of the contest, and profiled node by node: a decoder with the cache in the feed, which the profiled nodes copy.
The limit of a node is the time that this machine's measured ceilings allow it (`edgeai.roofline`): its multiply-adds
at the rate of a large product, or its bytes at the rate of the memory or the cache. What else runs on a machine only
ever slows it, so ceilings, latencies and nodes are measured in turn, round after round, and the best of each counts;
the slowest round's latency is told beside. Leaves `speed_limits.json` beside the contests' results; contests that are
not named stay as they are. Leave the machine alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from peers.contests import CONTESTS, REFERENCE, Contest, Runner
from peers.environments import EDGEAI, command
from peers.process import Peer
from speed_peers import QUICK, RESULTS, Materials, kept, made, opened, prepared

from edgeai.bench import Workload
from edgeai.bench.limits import Ceilings, NodeCost, limited, roofline
from edgeai.bench.workload import NS
from edgeai.cli.console import print_table, to_json
from edgeai.machine import machine
from edgeai.roofline import GraphProfiler, measure_ceilings
from edgeai.runtime.kv_cache import KEEP
from edgeai.runtime.settings import SessionSettings
from edgeai.samples import Samples
from edgeai.storage import atomic_text

KINDS = 8
ROUNDS = 3
LATENCY = Workload(max_iterations=1_000_000, min_seconds=2.0, max_seconds=2.0, warmup_max_seconds=1.0)  # of a round

Row = dict[str, Any]


def main() -> None:
    names = [contest.name for contest in CONTESTS]
    parser = argparse.ArgumentParser(description="Profile the contests' winners and put them under the roofline.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)} [default: all]")
    parser.add_argument("--peers", type=Path, default=RESULTS, help="the contests' results")
    arguments = parser.parse_args()
    wanted = arguments.names or names
    if unknown := set(wanted) - set(names):
        parser.error(f"there is no contest {', '.join(sorted(unknown))}")
    out = arguments.peers.with_name("speed_limits.json")
    held = (kept(arguments.peers) or {"contests": {}})["contests"]
    data = (kept(out) if arguments.names else None) or {"contests": {}}
    for contest in (contest for contest in CONTESTS if contest.name in wanted and contest.name in held):
        data["contests"][contest.name] = looked_at(contest, held[contest.name])
        data["machine"] = to_json(dataclasses.asdict(machine()))
        atomic_text(out, json.dumps(data, indent=1) + "\n", overwrite=True)
    rows = [
        (name, runner, f"{row['p50_ns'] / 1e6:.3f}", f"{row['percent_of_limit']:.0f} %", row["bound"])
        for name, found in data["contests"].items()
        for runner, row in found["forms"].items()
    ]
    print_table(("contest", "form", "p50 ms", "of the limit", "bound by"), rows)


@dataclasses.dataclass(frozen=True)
class Look:
    """One form in one round: the median of one inference, and what its nodes took under the profiler."""

    p50_ns: float
    nodes: tuple[NodeCost, ...]


def looked_at(contest: Contest, found: Row) -> Row:
    """The ceilings, and under them the float session and edgeai's fastest on the CPU provider."""
    times = {name: row["p50_ns"] for name, row in found["rows"].items() if row["failed"] is None}
    ours = [runner for runner in contest.runners if runner.peer == EDGEAI and runner.name in times]
    fastest = min(ours, key=lambda runner: times[runner.name])
    wanted = [runner for runner in contest.runners if runner.name in (REFERENCE, fastest.name)]
    looks: dict[str, list[Look]] = {runner.name: [] for runner in wanted}
    every: list[Ceilings] = []
    with tempfile.TemporaryDirectory(prefix="edgeai-limits-") as place:
        materials = prepared(contest, contest.model, Path(place))
        files = [(runner, made(runner, materials, QUICK)) for runner in wanted]
        profiled = {
            runner.name: last_logits(file, Path(place, "last.onnx")) if "prompt" in runner.form_options else file
            for runner, file in files
        }
        for _ in range(ROUNDS):
            every.append(measure_ceilings())
            for runner, file in files:
                looks[runner.name].append(look(runner, file, profiled[runner.name], materials))
    ceilings = highest(every)
    return {
        "ceilings": dataclasses.asdict(ceilings),
        "forms": {name: under(ceilings, some) for name, some in looks.items()},
    }


def look(runner: Runner, file: Path, profiled: Path, materials: Materials) -> Look:
    with Peer(runner.name, command(runner.peer), workload=LATENCY) as peer:
        opened(runner, peer, file, materials)
        peer.warm_up()
        block = peer.block(LATENCY.max_iterations, budget_ns=int(LATENCY.max_seconds * NS))
    feed = next(Samples.load(materials.feeds).feeds())
    return Look(float(np.median(block.samples_ns)), GraphProfiler().nodes(profiled, feed, settings_of(runner)))


def last_logits(file: Path, out: Path) -> Path:
    """A decoder that the profiler, which names no more than the feed does, sees answer for the last token alone."""
    model = onnx.load(file)
    for tensor in model.graph.initializer:
        if tensor.name == KEEP:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ones(1, np.int64), KEEP))
    onnx.save(model, out)
    return out


def highest(every: Sequence[Ceilings]) -> Ceilings:
    """Of the same machine, the best that it showed."""
    return dataclasses.replace(
        every[0],
        operations={kind: max(one.operations[kind] for one in every) for kind in every[0].operations},
        memory_bytes=max(one.memory_bytes for one in every),
        cache_bytes=max(one.cache_bytes for one in every),
    )


def under(ceilings: Ceilings, looks: Sequence[Look]) -> Row:
    """The fastest round of a form; `slowest_ns` is the median of its slowest."""
    p50_ns = min(one.p50_ns for one in looks)
    nodes = min((one.nodes for one in looks), key=lambda some: sum(node.time_ns for node in some))
    roof = roofline(nodes, ceilings, latency_ns=p50_ns)
    known = [limited(node, ceilings, model_weight_bytes=roof.weight_bytes) for node in nodes]
    return {
        "p50_ns": p50_ns, "slowest_ns": max(one.p50_ns for one in looks), "limit_ns": roof.limit_ns,
        "percent_of_limit": roof.percent_of_limit, "bound": roof.bound, "operations": roof.operations,
        "weight_bytes": roof.weight_bytes, "profiled_ns": roof.profiled_ns, "kinds": kinds(known),
    }  # fmt: skip


def settings_of(runner: Runner) -> SessionSettings | None:
    """What is profiled: as in the contest; the float session in edgeai's defaults."""
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
