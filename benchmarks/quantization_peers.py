"""Every reference family quantized by edgeai and by its peers, from one float file, with the same samples.

    python benchmarks/peers/environments.py onnxruntime optimum openvino
    python benchmarks/quantization_peers.py [NAME ...] [--again] [--quick] [--json PATH]

Needs what `make demo` leaves in `demo/trained`; leaves `benchmarks/results/quantization_peers.json`. Families that are
there are kept, unless named or `--again`. Every tool gets the same file and the same calibration samples; every result
is scored by the same samples, which nobody saw before, and timed, interleaved, in the same session settings. A tool
that fails, or whose file does not run, is a row with what it said; "helped" is the same tool past a known failure
(peers/common/helped.py). A quarter of an hour on two cores; leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from peers.environments import EDGEAI, command
from peers.process import Peer, PeerError

from edgeai import bench
from edgeai.agreement import MetricAgreement
from edgeai.caching import with_empty_cache
from edgeai.cli.console import RichProgress, print_table, to_json
from edgeai.exporting import export, resolve
from edgeai.machine import machine
from edgeai.metrics import METRICS, Metric
from edgeai.quantization import measure_coverage
from edgeai.runtime.loading import load
from edgeai.samples import Samples
from edgeai.scoring import paired_bootstrap
from edgeai.spec import Array, Signature
from edgeai.storage import atomic_text
from edgeai.tuning.measuring import ratio_of, time_together
from edgeai.verification import labelled_feeds
from model_defs import NAMES

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "quantization_peers.json"
FULL = bench.Workload(
    min_iterations=60, min_seconds=0.5, max_seconds=3.0, warmup_min_seconds=0.1, warmup_max_seconds=1.0, rounds=10
)
QUICK = dataclasses.replace(FULL, min_iterations=5, min_seconds=0.0, max_seconds=0.5, rounds=5)
QUICK_SAMPLES = 16
FLOAT = "fp32"
SMALLER = 0.9  # of the float file's bytes: above that, hardly anything was quantized
TRANSFORMERS = ("transformer", "bert", "gpt")  # what NNCF wants to be told

Row = dict[str, Any]


@dataclass(frozen=True)
class Method:
    """A tool and one of its recipes; `name` is what the table calls it."""

    name: str
    peer: str
    recipe: str
    options: Mapping[str, object] = field(default_factory=dict)


METHODS = (
    Method("edgeai int8-dynamic", EDGEAI, "recipe", {"name": "int8-dynamic"}),
    Method("edgeai int8-static", EDGEAI, "recipe", {"name": "int8-static"}),
    Method("edgeai auto 0.5 %", EDGEAI, "auto", {"max_drop": 0.005}),
    Method("ORT quantize_dynamic", "onnxruntime", "dynamic"),
    Method("ORT quantize_dynamic, helped", "onnxruntime", "dynamic", {"help": True}),
    Method("ORT quantize_static", "onnxruntime", "static"),
    Method("ORT static tuned, min-max", "onnxruntime", "tuned", {"method": "MinMax"}),
    Method("ORT static tuned, percentile", "onnxruntime", "tuned", {"method": "Percentile"}),
    Method("ORT static tuned, entropy", "onnxruntime", "tuned", {"method": "Entropy"}),
    Method("optimum avx2 dynamic", "optimum", "dynamic", {"target": "avx2"}),
    Method("optimum avx2 dynamic, helped", "optimum", "dynamic", {"target": "avx2", "help": True}),
    Method("optimum avx2 static", "optimum", "static", {"target": "avx2"}),
    Method("optimum avx512 dynamic", "optimum", "dynamic", {"target": "avx512"}),
    Method("optimum avx512 dynamic, helped", "optimum", "dynamic", {"target": "avx512", "help": True}),
    Method("optimum avx512 static", "optimum", "static", {"target": "avx512"}),
    Method("NNCF", "openvino", "nncf-onnx"),
    Method("NNCF, no SmoothQuant", "openvino", "nncf-onnx", {"smooth": False}),
)


def main() -> None:
    arguments = _arguments()
    known: Row = json.loads(arguments.json.read_text())["families"] if arguments.json.exists() else {}
    workload = QUICK if arguments.quick else FULL
    with ExitStack() as stack:
        peers = _Peers(stack, workload)
        versions = {name: peers[name].versions() for name in dict.fromkeys(method.peer for method in METHODS)}
        there = [] if arguments.again else [name for name, one in known.items() if one["quick"] == arguments.quick]
        for name in arguments.names or [name for name in NAMES if name not in there]:
            known[name] = family(name, peers, workload, quick=arguments.quick)
            data = {
                "machine": to_json(dataclasses.asdict(machine())), "versions": versions,
                "families": {name: known[name] for name in NAMES if name in known},
            }  # fmt: skip
            atomic_text(arguments.json, json.dumps(data, indent=1) + "\n", overwrite=True)
    columns = ("family", "method", "MB", "integer", "metric", "drop (95 %)", "time", "s")
    print_table(columns, list(table(known)))
    print_table(("family", "edgeai's best", "the peers' best", "drop (95 %)", "not below"), list(verdicts(known)))


class _Peers:
    """A process for each peer, and a new one for a peer whose last one has ended."""

    def __init__(self, stack: ExitStack, workload: bench.Workload) -> None:
        self._stack, self._workload = stack, workload
        self._opened: dict[str, Peer] = {}

    def __getitem__(self, name: str) -> Peer:
        if name not in self._opened or not self._opened[name].is_alive:
            self._opened[name] = self._stack.enter_context(Peer(name, command(name), workload=self._workload))
        return self._opened[name]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Quantize the reference families with edgeai and its peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="families, measured anew [default: all]")
    parser.add_argument("--again", action="store_true", help="measure anew what is there")
    parser.add_argument("--quick", action="store_true", help="few samples and runs: only to see that it works")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the results go")
    return parser.parse_args()


def family(name: str, peers: _Peers, workload: bench.Workload, *, quick: bool) -> Row:
    """A row for each method, and edgeai's best against the best of the others."""
    begin = time.monotonic()
    source = resolve(str(ROOT / "demo" / "trained" / name))
    assert source.metric is not None
    parts = {kind: with_empty_cache(Samples.load(path), source.signature) for kind, path in source.samples.items()}
    if quick:
        parts = {kind: part.take(slice(0, min(2 * QUICK_SAMPLES, len(part)))) for kind, part in parts.items()}
    half = len(parts["scoring"]) // 2
    used = {
        "calibration": parts["calibration"], "search": parts["scoring"].take(slice(0, half)),
        "score": parts["scoring"].take(slice(half, None)),
    }  # fmt: skip
    progress = RichProgress()
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        baseline = export(source, out=directory / f"{FLOAT}.onnx", progress=progress)
        assert baseline.signature is not None
        for kind, samples in used.items():
            samples.save(directory / f"{kind}.npz")
        judge = _Judge(METRICS[source.metric], baseline.signature, used["score"])
        rows: dict[str, Row] = {FLOAT: {"failed": None, "seconds": None}}
        files = {FLOAT: baseline.path}
        with progress.task(f"{name}: quantizing", len(METHODS)) as advance:
            for number, method in enumerate(METHODS):
                out = directory / f"{number}.onnx"
                rows[method.name] = row = _quantized(method, peers[method.peer], name, source.metric, directory, out)
                if row["failed"] is None and _answers(method.name, out, judge, row):
                    files[method.name] = out
                advance(note=method.name)
        _answers(FLOAT, baseline.path, judge, rows[FLOAT])
        report = time_together(files, used["score"], directory, workload, progress)
        for found in files:
            rows[found] |= {
                "metric": to_json(judge.compare(FLOAT, found)),
                "ratio": ratio_of(report, found), "p50_ns": report[found].statistics["p50"].value,
            }  # fmt: skip
    return {
        "quick": quick, "samples": {kind: len(samples) for kind, samples in used.items()}, "rows": rows,
        "verdict": verdict(rows, judge), "minutes": round((time.monotonic() - begin) / 60, 2),
    }  # fmt: skip


def _quantized(method: Method, peer: Peer, family: str, metric: str, directory: Path, out: Path) -> Row:
    options = dict(method.options)
    if method.peer == "openvino":
        options["transformer"] = family in TRANSFORMERS
    if method.recipe == "auto":
        options |= {"search": str(directory / "search.npz"), "score": str(directory / "score.npz"), "metric": metric}
    try:
        seconds = peer.quantize(
            method.recipe, directory / f"{FLOAT}.onnx", out, directory / "calibration.npz", **options
        )
    except PeerError as error:
        return {"failed": str(error).replace(f"{directory}/", ""), "seconds": None}
    return {"failed": None, "seconds": seconds}


def _answers(name: str, path: Path, judge: _Judge, row: Row) -> bool:
    """Does the file open and answer? Then its size, its integers and its score are taken."""
    try:
        judge.score(name, path)
        row |= {"bytes": path.stat().st_size, "integer_weight_share": measure_coverage(path).integer_weight_share}
    # onnxruntime's exceptions share no base below Exception.
    except Exception as error:
        row["failed"] = f"written, but it does not run: {error}".replace(f"{path.parent}/", "")[:500]
    return row["failed"] is None


class _Judge:
    """One number a sample for every file, so that any two can be compared sample by sample."""

    def __init__(self, metric: Metric, signature: Signature, samples: Samples) -> None:
        self._metric, self._signature, self._samples = metric, signature, samples
        self._scores: dict[str, Array] = {}

    def score(self, name: str, path: Path) -> None:
        output = self._signature.output_names[0]
        with load(path, ep="cpu") as session:
            self._scores[name] = np.concatenate([
                self._metric.per_sample(session.run(feed)[output], labels)
                for feed, labels in labelled_feeds(self._signature, self._samples)
            ])  # fmt: skip

    def compare(self, reference: str, candidate: str) -> MetricAgreement:
        return paired_bootstrap(self._metric, self._scores[reference], self._scores[candidate])

    def best(self, names: Sequence[str]) -> str:
        """The one that loses least against the float file."""
        return min(names, key=lambda name: self.compare(FLOAT, name).drop)


def verdict(rows: Mapping[str, Row], judge: _Judge) -> Row | None:
    """edgeai's best against the best peer, among the files that got smaller; None where one side has none.

    Each side's best is picked on the samples that it is judged by, which flatters both alike. Not below: the interval
    of the drop from the peer's to edgeai's reaches zero.
    """
    limit = SMALLER * rows[FLOAT]["bytes"]
    smaller = [name for name, row in rows.items() if row["failed"] is None and row["bytes"] < limit]
    ours = [method.name for method in METHODS if method.peer == EDGEAI and method.name in smaller]
    theirs = [method.name for method in METHODS if method.peer != EDGEAI and method.name in smaller]
    if not ours or not theirs:
        return None
    mine, other = judge.best(ours), judge.best(theirs)
    compared = judge.compare(other, mine)
    every = {name: to_json(judge.compare(other, name)) for name in ours}
    return {"edgeai": mine, "peer": other, "metric": to_json(compared), "not_below": compared.low <= 0, "each": every}


def table(families: Mapping[str, Row]) -> Iterator[tuple[str, ...]]:
    for family, found in families.items():
        for name, row in found["rows"].items():
            if row["failed"] is not None:
                yield family, name, "-", "-", f"failed: {row['failed'][:60]}", "-", "-", "-"
                continue
            metric, ratio = row["metric"], row["ratio"]
            yield (
                family, name, f"{row['bytes'] / 1e6:.3f}", f"{row['integer_weight_share']:.0%}",
                f"{metric['candidate']:.4g}", f"{metric['drop']:.2%} ({metric['low']:.2%}..{metric['high']:.2%})",
                "-" if ratio is None else "{:.2f} ({:.2f}..{:.2f})".format(*ratio),
                "-" if row["seconds"] is None else f"{row['seconds']:.1f}",
            )  # fmt: skip


def verdicts(families: Mapping[str, Row]) -> Iterator[tuple[str, ...]]:
    for family, found in families.items():
        said = found["verdict"]
        if said is None:
            yield family, "-", "-", "-", "nothing to compare"
            continue
        metric = said["metric"]
        drop = f"{metric['drop']:.2%} ({metric['low']:.2%}..{metric['high']:.2%})"
        yield family, said["edgeai"], said["peer"], drop, "yes" if said["not_below"] else "NO"


if __name__ == "__main__":
    main()
