"""Which form of the graph is fastest: every form of `edgeai.graph.FORMS`, float32 and dynamic int8, interleaved.

    python benchmarks/graph_forms.py [MODEL ...] [--quick] [--out results.json]

MODEL: a reference family, or an .onnx file; default: transformer, bert, bert:base and gpt. Every sequence has 128
tokens, a decoder has 128 more in its cache. Ratios are to the file as exported, with their 95 % intervals. Also
measured, on the largest model: what prepacked weights save at load. Leave the machine alone while it runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgeai import bench
from edgeai.artifact import Artifact
from edgeai.cli.console import RichProgress, print_table
from edgeai.errors import EdgeAIError
from edgeai.exporting import export, resolve
from edgeai.graph import FORMS, optimize, specialize
from edgeai.machine import machine
from edgeai.modelfile import open_artifact
from edgeai.probing import axis_names, size_of
from edgeai.quantization import Int8Dynamic, quantize
from edgeai.samples import Samples
from edgeai.spec import Signature
from edgeai.storage import atomic_text

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "graph_forms.json"
MODELS = ("transformer", "bert", "bert:base", "gpt")
LENGTH = 128
FULL = bench.Workload(min_iterations=200, min_seconds=2.0, max_seconds=20.0, rounds=20)
QUICK = bench.Workload(
    min_iterations=20, max_iterations=40, min_seconds=0.1, max_seconds=1.0, warmup_min_seconds=0.05,
    warmup_max_seconds=0.3, settle_seconds=0, rounds=5,
)  # fmt: skip


def exported(name: str, directory: Path) -> Artifact:
    """The model as the exporter writes it, untrained: the values of the weights cost no time."""
    if name.endswith(".onnx"):
        return open_artifact(name)
    return export(resolve(name), out=directory / f"{name.replace(':', '-')}.onnx")


def inputs(signature: Signature, path: Path) -> Path:
    """One feed: batch 1, `LENGTH` positions on every other axis, nothing masked."""
    sizes = {name: 1 if "batch" in name else signature.axis(name).nearest(LENGTH) for name in axis_names(signature)}
    random = np.random.default_rng(0)
    feed = {}
    for spec in signature.inputs:
        shape = tuple(size_of(axis, sizes) for axis in spec.shape)
        if "mask" in spec.name:
            feed[spec.name] = np.ones(shape, spec.dtype)
        elif "int" in spec.dtype:
            feed[spec.name] = random.integers(spec.low or 0, spec.high or 2, shape).astype(spec.dtype)
        else:
            feed[spec.name] = random.standard_normal(shape).astype(spec.dtype)
    Samples.from_feeds([feed]).save(path)
    return path


def forms(artifact: Artifact, directory: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Name of a form -> its file, the exported graph first; and why others could not be made."""
    made, refused = {"exported": artifact.path}, {}
    for form in (name for name, form in FORMS.items() if "cpu" in form.targets):
        for recipe in ("", "int8-dynamic"):
            name = f"{form} {recipe}".strip()
            try:
                if not recipe:
                    done = optimize(artifact, out=directory / f"{form}.onnx", form=form)
                    if rolled_back := done.lineage[-1].options["rolled_back"]:
                        refused[name] = str(rolled_back)
                else:
                    done = quantize(open_artifact(made[form]), Int8Dynamic(), out=directory / f"{form}-int8.onnx")
                made[name] = done.path
            except EdgeAIError as error:
                refused[name] = error.message
    return made, refused


def measured(made: dict[str, Path], feed: Path, workload: bench.Workload) -> list[dict[str, Any]]:
    subjects = [
        bench.Subject(
            name, "edgeai.runtime.loading:load", {"path": str(path), "ep": "cpu"}, size_bytes=path.stat().st_size,
            preload="edgeai.ort:onnxruntime",
        )
        for name, path in made.items()
    ]  # fmt: skip
    report = bench.measure(subjects, feed, workload, seed=0, progress=RichProgress())
    rows = []
    for name in made:
        result = report[name]
        ratio = result.ratio
        rows.append(
            {
                "form": name,
                "p50_ns": result.statistics["p50"].value,
                "ratio": None if ratio is None else [ratio.value, ratio.low, ratio.high],
                "size_bytes": made[name].stat().st_size,
            }
        )
    return rows


def load_cost(path: Path, repeats: int = 5) -> dict[str, float]:
    """Seconds to a session and the memory that it adds, each in a process of its own; the smallest of each."""
    code = (
        "import sys, time, json\n"
        "from edgeai.ort import onnxruntime\n"
        "from edgeai.runtime import load\n"
        "onnxruntime()\n"
        "rss = lambda: int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        "before, start = rss(), time.perf_counter()\n"
        "session = load(sys.argv[1], ep='cpu')\n"
        "print(json.dumps([time.perf_counter() - start, rss() - before]))\n"
    )
    found = [
        json.loads(subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=True).stdout)
        for _ in range(repeats)
    ]
    return {"seconds": min(row[0] for row in found), "rss_bytes": min(row[1] for row in found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--quick", action="store_true", help="only to see that it works")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    workload = QUICK if options.quick else FULL
    data: dict[str, Any] = {"machine": dataclasses.asdict(machine()), "workload": dataclasses.asdict(workload)}
    data |= {"quick": options.quick, "load_average": os.getloadavg(), "when": time.time(), "models": {}}
    with tempfile.TemporaryDirectory() as name:
        for model in options.models:
            directory = Path(name) / model.replace("/", "_").replace(":", "-")
            directory.mkdir()
            artifact = exported(model, directory)
            assert artifact.signature is not None
            made, refused = forms(artifact, directory)
            rows = measured(made, inputs(artifact.signature, directory / "feed.npz"), workload)
            special = specialize(open_artifact(made["mha"]), out=directory / "special.onnx")
            load = {form: load_cost(path) for form, path in (("mha", made["mha"]), ("special", special.path))}
            data["models"][Path(model).name] = {"rows": rows, "not_made": refused, "load": load}
            print_table(
                ("form", "p50 ms", "ratio", "95 %"),
                [
                    (
                        row["form"],
                        f"{(row['p50_ns'] or 0) / 1e6:.2f}",
                        "-" if row["ratio"] is None else f"{row['ratio'][0]:.3f}",
                        "-" if row["ratio"] is None else f"{row['ratio'][1]:.3f}..{row['ratio'][2]:.3f}",
                    )
                    for row in rows
                ],
                title=f"{model}: load {load}",
            )
            atomic_text(options.out, json.dumps(data, indent=1) + "\n", overwrite=True)


if __name__ == "__main__":
    main()
