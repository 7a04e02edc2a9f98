"""What weight-only quantization costs and saves: GPT-2 124M by size and time, the trained `gpt` by perplexity.

Leaves `benchmarks/results/weight_only.json`. The first run trains and exports into `build/weight_only`, some ten
minutes; later runs start from what is there.
"""

import itertools
import json
import math
import multiprocessing
import time
from pathlib import Path
from typing import Any

import numpy as np

import edgeai
from edgeai.caching import with_empty_cache
from edgeai.cli.console import RichProgress, print_table
from edgeai.exporting import resolve
from edgeai.graph import optimize
from edgeai.machine import machine
from edgeai.modelfile import open_artifact
from edgeai.quantization import RECIPES, quantize
from edgeai.samples import Samples
from edgeai.storage import atomic_text
from model_defs import FAMILIES
from model_defs.train import train

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "weight_only"
RESULTS = ROOT / "benchmarks" / "results" / "weight_only.json"
LIMIT_BYTES = 85_000_000  # of GPT-2 124M at four bits, embedding and head shared

METHODS = ("rtn", "hqq", "k-quant", "k-quant with samples", "gptq")
BASE = (
    *(("int4-weight", {"block_size": size, "method": "k-quant"}) for size in (32, 64, 128)),
    *(("int4-weight", {"block_size": 32, "method": method}) for method in ("rtn", "hqq")),
    ("int4-weight", {"block_size": 32, "method": "k-quant", "symmetric": False}),
    ("int8-weight", {}),
    ("int8-dynamic", {}),
    ("fp16", {}),
    ("bf16", {}),
)
OTHERS = (
    ("int8-weight", {}), ("int8-dynamic", {}), ("int8-dynamic", {"embeddings": False}), ("fp16", {}), ("bf16", {}),
    ("int4-weight", {"embeddings": False}),
)  # fmt: skip


def portable(source: str, name: str) -> Path:
    """Export `source` and rewrite it for any target, unless an earlier run has."""
    path = WORK / f"{name}.portable.onnx"
    if not path.exists():
        exported = edgeai.export(resolve(source), out=WORK / f"{name}.onnx", overwrite=True, progress=RichProgress())
        optimize(exported, out=path, target="portable")
    return path


def measure(source: Path, recipe: str, options: dict[str, Any], samples: Samples | None, out: Path) -> dict[str, Any]:
    """Quantize in this process, which does nothing else: size, seconds and peak memory."""
    before = time.perf_counter()
    done = quantize(open_artifact(source), RECIPES[recipe](**options), samples=samples, out=out, overwrite=True)
    seconds = time.perf_counter() - before
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return {
        "recipe": recipe,
        "options": options,
        "size_bytes": done.path.stat().st_size,
        "seconds": round(seconds, 2),
        "peak_memory_bytes": int(peak.split()[1]) * 1024,
        "shared": done.lineage[-1].options.get("shared", []),
    }


def log_probabilities(path: Path, scoring: Samples) -> np.ndarray:
    """float32 (N,S,V) of the first output, softmaxed."""
    parts = []
    with edgeai.load(path, ep="cpu") as session:
        for feed in scoring.feeds(16):
            logits = session.run(feed)["logits"].astype(np.float64)
            logits -= logits.max(-1, keepdims=True)
            parts.append((logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32))
    return np.concatenate(parts)


def surprise(found: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """-log p of every label, float64 (N*S,); the exponential of its mean is the perplexity."""
    return -np.take_along_axis(found, labels[..., None], -1).astype(np.float64).ravel()


def change(surprises: np.ndarray, before: np.ndarray) -> dict[str, float]:
    """Of the perplexity, token by token on the same text, and the standard error of that."""
    difference = surprises - before
    error = float(difference.std() / math.sqrt(len(difference)))
    return {"change": math.expm1(float(difference.mean())), "standard_error": error}


def base_rows(spawn: Any) -> list[dict[str, Any]]:
    source = portable("gpt:base", "gpt_base")
    rows: list[dict[str, Any]] = [{"recipe": "fp32", "options": {}, "size_bytes": source.stat().st_size}]
    for recipe, options in BASE:
        with spawn.Pool(1) as pool:
            rows.append(pool.apply(measure, (source, recipe, options, None, WORK / "quantized.onnx")))
    return rows


def trained_rows(spawn: Any) -> list[dict[str, Any]]:
    directory = WORK / "gpt"
    if not (directory / "training.json").exists():
        train(FAMILIES["gpt"], directory, preset="reference", progress=RichProgress())
    source = portable(str(directory), "gpt")
    signature = open_artifact(source).signature
    scoring = with_empty_cache(Samples.load(directory / "scoring.npz"), signature)
    calibration = with_empty_cache(Samples.load(directory / "calibration.npz"), signature)
    labels = scoring.labels
    reference = log_probabilities(source, scoring)
    exact = surprise(reference, labels)
    nearest: dict[tuple[object, ...], np.ndarray] = {}  # what round-to-nearest leaves on the same grid
    rows: list[dict[str, Any]] = [
        {
            "recipe": "fp32", "options": {}, "size_bytes": source.stat().st_size,
            "perplexity": math.exp(exact.mean()), "against_fp32": change(exact, exact), "divergence": 0.0,
        }
    ]  # fmt: skip
    plans: list[tuple[str, dict[str, Any], Samples | None]] = []
    for symmetric, size, method in itertools.product((True, False), (32, 64, 128), METHODS):
        name, _, with_samples = method.partition(" with ")
        options = {"block_size": size, "symmetric": symmetric, "method": name}
        plans.append(("int4-weight", options, calibration if with_samples or name == "gptq" else None))
    plans += [(recipe, options, None) for recipe, options in OTHERS]
    for recipe, options, samples in plans:
        with spawn.Pool(1) as pool:
            row = pool.apply(measure, (source, recipe, options, samples, WORK / "quantized.onnx"))
        found = log_probabilities(WORK / "quantized.onnx", scoring)
        row["samples"] = len(samples) if samples is not None else 0
        surprises = surprise(found, labels)
        row["perplexity"] = math.exp(surprises.mean())
        row["against_fp32"] = change(surprises, exact)
        if "symmetric" in options:
            grid = (options["symmetric"], options["block_size"])
            row["against_rtn"] = change(surprises, nearest.setdefault(grid, surprises))
        row["divergence"] = float((np.exp(reference) * (reference - found)).sum(-1).mean())
        rows.append(row)
    return rows


def described(row: dict[str, Any]) -> str:
    options = [f"{key}={value}" for key, value in row["options"].items()]
    return " ".join([row["recipe"], *options, *(["samples"] if row.get("samples") else [])])


def percent(found: dict[str, float] | None) -> str:
    return "" if found is None else f"{found['change']:+.2%} ± {found['standard_error']:.2%}"


def main() -> None:
    spawn = multiprocessing.get_context("spawn")
    WORK.mkdir(parents=True, exist_ok=True)
    data = {
        "schema": "edgeai.weight-only/1",
        "machine": {"cpu": machine().cpu, "cores": machine().cores, "features": list(machine().features)},
        "versions": machine().versions,
        "gpt-2 124M": base_rows(spawn),
        "gpt trained": trained_rows(spawn),
    }
    (WORK / "quantized.onnx").unlink(missing_ok=True)
    atomic_text(RESULTS, json.dumps(data, indent=1) + "\n", overwrite=True)
    columns = ("GPT-2 124M", "MB", "seconds", "peak GB")
    print_table(
        columns,
        [
            (
                described(row), f"{row['size_bytes'] / 1e6:.1f}", f"{row.get('seconds', 0):.1f}",
                f"{row.get('peak_memory_bytes', 0) / 1e9:.2f}",
            )
            for row in data["gpt-2 124M"]
        ],
    )  # fmt: skip
    columns = ("trained gpt", "MB", "perplexity", "against fp32", "against rtn", "KL divergence")
    print_table(
        columns,
        [
            (
                described(row), f"{row['size_bytes'] / 1e6:.3f}", f"{row['perplexity']:.3f}",
                percent(row["against_fp32"]), percent(row.get("against_rtn")), f"{row['divergence']:.5f}",
            )
            for row in data["gpt trained"]
        ],
    )  # fmt: skip
    smallest = data["gpt-2 124M"][1]
    if smallest["size_bytes"] > LIMIT_BYTES or not smallest["shared"]:
        raise SystemExit(
            f"GPT-2 124M takes {smallest['size_bytes'] / 1e6:.1f} MB at four bits, embedding shared or not"
        )


if __name__ == "__main__":
    main()
