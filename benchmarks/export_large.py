"""`python benchmarks/export_large.py`: export, prove, load and run a module larger than a protobuf message may be.

Ten Linear layers of 8192 x 8192 float32: 2.68 GB of weights. Needs 12 GB of memory and as much disk for a moment;
leaves `benchmarks/results/export_large.json`. Each phase's peak is that of a process of its own.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from edgeai.bench.memory import peak_rss_bytes, rss_bytes
from edgeai.cli.console import to_json
from edgeai.machine import machine
from edgeai.storage import atomic_text

RESULTS = Path(__file__).parent / "results" / "export_large.json"


def make(layers: int, width: int) -> Any:
    import torch
    from torch import nn

    torch.manual_seed(0)
    blocks = [part for _ in range(layers) for part in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*blocks)


def export(path: Path, layers: int, width: int) -> dict[str, object]:
    import torch

    from edgeai.exporting import export

    module = make(layers, width)
    loaded = rss_bytes()
    artifact = export(module, {"input": torch.randn(2, width)}, out=path)
    return {"module_rss_bytes": loaded, "verified": artifact.lineage[-1].options["verified"]}


def verify(path: Path, layers: int, width: int) -> dict[str, object]:
    from edgeai.eager import EagerEngine
    from edgeai.runtime import load
    from edgeai.verification import verify

    with load(path, ep="cpu") as session, EagerEngine(make(layers, width), session.signature) as reference:
        agreement = verify(reference, session, probes=3)
    return {"verdict": agreement.verdict, "feeds": agreement.feeds, "largest_error": agreement.error}


def load_and_run(path: Path, layers: int, width: int) -> dict[str, object]:
    import numpy as np

    from edgeai.runtime import load

    del layers
    start = time.perf_counter_ns()
    with load(path, ep="cpu") as session:
        loaded = time.perf_counter_ns() - start
        (answer,) = session.run({"input": np.ones((1, width), np.float32)}).values()
    return {"load_ns": loaded, "output_shape": list(answer.shape)}


def phase(work: Callable[..., dict[str, object]], *arguments: object) -> dict[str, object]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, work, *arguments).result()


def _measured(work: Callable[..., dict[str, object]], *arguments: object) -> dict[str, object]:
    start = time.perf_counter_ns()
    found = work(*arguments)
    return {"peak_memory_bytes": peak_rss_bytes(), "wall_ns": time.perf_counter_ns() - start, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--width", type=int, default=8192)
    parser.add_argument("-o", "--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    size = (options.layers, options.width)
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as directory:
        path = Path(directory, "large.onnx")
        data: dict[str, object] = {
            "weights_bytes": 4 * options.layers * options.width * (options.width + 1),
            "machine": to_json(machine()),
            "export": phase(export, path, *size),
        }
        data["files"] = {file.name: file.stat().st_size for file in sorted(Path(directory).iterdir())}
        data["load_and_run"] = phase(load_and_run, path, *size)
        data["verify"] = phase(verify, path, *size)
    atomic_text(options.out, json.dumps(data, indent=1) + "\n", overwrite=True)
    print(json.dumps(data, indent=1))


if __name__ == "__main__":
    main()
