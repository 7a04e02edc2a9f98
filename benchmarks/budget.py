"""Every reference family within an accuracy budget: `quantize -p auto --max-drop 0.5%`, every recipe's row kept.

    python benchmarks/budget.py [NAME ...]

Needs what `make demo` leaves in `demo/trained`; leaves `benchmarks/results/budget.json`. Calibration, search and final
score share no sample; latency is measured interleaved against the float file. Leave the machine alone while it runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

from edgeai.caching import with_empty_cache
from edgeai.cli.console import RichProgress, print_table, to_json
from edgeai.exporting import export, resolve
from edgeai.graph import optimize
from edgeai.machine import machine
from edgeai.metrics import METRICS
from edgeai.quantization import measure_coverage
from edgeai.samples import Samples
from edgeai.storage import atomic_text
from edgeai.tuning.automatic import AutoReport, quantize_auto
from edgeai.tuning.splits import Splits
from model_defs import NAMES

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "budget.json"
MAX_DROP = 0.005


def main() -> None:
    parser = argparse.ArgumentParser(description="Quantize the reference families within an accuracy budget.")
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME", help="families [default: all]")
    names = parser.parse_args().names
    known: dict[str, Any] = json.loads(RESULTS.read_text())["families"] if RESULTS.exists() else {}
    for name in names:
        known[name] = family(ROOT / "demo" / "trained" / name)
        data = {"machine": to_json(dataclasses.asdict(machine())), "max_drop": MAX_DROP, "families": known}
        atomic_text(RESULTS, json.dumps(data, indent=1) + "\n", overwrite=True)
    print_table(("family", "form", "MB", "metric", "drop (95 %)", "time", "in float", "why"), list(table(known)))


def family(trained: Path) -> dict[str, Any]:
    """One row for each recipe, and what share of the weights is integer in the one that is kept."""
    source = resolve(str(trained))
    parts = {kind: with_empty_cache(Samples.load(path), source.signature) for kind, path in source.samples.items()}
    half = len(parts["scoring"]) // 2
    splits = Splits(
        parts["calibration"], parts["scoring"].take(slice(0, half)), parts["scoring"].take(slice(half, None))
    )
    assert source.metric is not None
    progress = RichProgress()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        baseline = export(source, out=directory / "fp32.onnx", progress=progress)
        portable = optimize(baseline, out=directory / "portable.onnx", target="portable", progress=progress)
        report = quantize_auto(
            portable, splits, METRICS[source.metric], out=directory / "kept.onnx", max_drop=MAX_DROP, progress=progress
        )
        return row(report)


def row(report: AutoReport) -> dict[str, Any]:
    """Plain data."""
    integers = measure_coverage(report.artifact.path).integer_weight_share if report.artifact is not None else None
    return {"chosen": report.chosen, "integer_weight_share": integers, "rows": to_json(report.rows)}


def table(families: dict[str, Any]) -> list[tuple[str, ...]]:
    """A line for each family and recipe; the kept one is marked."""
    lines = []
    for name, found in families.items():
        for one in found["rows"]:
            m, ratio = one["metric"], one["ratio"]
            lines.append((
                name,
                ("* " if one["name"] == found["chosen"] else "  ") + one["name"],
                f"{one['size_bytes'] / 1e6:.2f}",
                "-" if m is None else f"{m['name']} {m['reference']:.4g} -> {m['candidate']:.4g}",
                "-" if m is None else f"{m['drop']:.2%} ({m['low']:.2%}..{m['high']:.2%})",
                "-" if ratio is None else "{:.2f} ({:.2f}..{:.2f})".format(*ratio),
                f"{len(one['kept_float'])} ({one['float_share']:.0%})" if m else "-",
                one["reason"],
            ))  # fmt: skip
    return lines


if __name__ == "__main__":
    main()
