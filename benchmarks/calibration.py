"""What calibration of BERT-base costs, in seconds and in memory, beside ONNX Runtime's own calibrators.

    python benchmarks/calibration.py [--resume] [--rounds N] [--samples 64 256 1024] [--only edgeai onnxruntime]

Sequences of 128 random tokens, one sample a run: what one row's seconds say includes reading the model, and ends with
a range for every tensor. ONNX Runtime's calibrators keep all activations until the end, so they get 16 samples and the
smallest number asked for. One process a measurement, so that peaks of memory (`ru_maxrss`) are its own; a process that
grows past the limit is killed, and the row says so. The results so far are on disk after each row, and `--resume` goes
on from them. With `--rounds` the smallest number of samples is measured so often, the tools in turn, and the median
counts. Exports the model once, into `build/calibration`. Leaves `benchmarks/results/calibration.json`; what
its "findings" say follows from the rows alone. A quarter of an hour on two cores; leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "calibration.json"
MODEL = ROOT / "build" / "calibration" / "bert-base.onnx"
SEQUENCE = 128
COLUMNS = ("tool", "observer", "samples", "seconds", "seconds a sample", "peak MB", "outcome")
TOOLS = ("session", "edgeai", "onnxruntime")
OBSERVERS = ("percentile", "entropy")
FEW = 16

Row = dict[str, Any]


def main() -> None:
    arguments = _arguments()
    if arguments.child:
        print(json.dumps(_child(*arguments.child, model=arguments.model)))
        return
    from edgeai.cli.console import RichProgress, print_table

    if not arguments.model.exists():
        subprocess.run([sys.executable, "-m", "edgeai", "export", "bert:base", "-o", str(arguments.model)], check=True)
    rows = {_key(row): row for row in json.loads(arguments.json.read_text())["rows"]} if arguments.resume else {}
    plan = [cell for cell in _plan(arguments.samples) if cell[0] in arguments.only]
    progress = RichProgress()
    with progress.task("calibration", len(plan)) as advance:
        for cell in plan:
            if cell not in rows:
                rows[cell] = _measured(cell, arguments.model, min(arguments.limit_gb, 0.9 * _available_gb()))
                _save(arguments.json, rows)
            advance(note=f"{' '.join(map(str, cell))}: {rows[cell]['outcome']}")
        for cell in _compared(plan, min(arguments.samples)) * (arguments.rounds - 1):
            rows[cell] = _joined(rows[cell], _measured(cell, arguments.model, arguments.limit_gb))
            _save(arguments.json, rows)
            advance(0, note=f"{' '.join(map(str, cell))}: {len(rows[cell]['readings'])} readings")
    print_table(COLUMNS, [_line(rows[cell]) for cell in plan])
    for text, figure in _findings([rows[cell] for cell in plan]).items():
        print(f"{text}: {figure:.2f}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Seconds and memory of calibrating BERT-base.")
    parser.add_argument("--samples", nargs="+", type=int, default=[64, 256, 1024])
    parser.add_argument("--only", nargs="+", default=TOOLS, choices=TOOLS, help="these alone")
    parser.add_argument("--resume", action="store_true", help="keep the rows that are there")
    parser.add_argument("--rounds", type=int, default=1, help="of the smallest number of samples")
    parser.add_argument("--model", type=Path, default=MODEL, help="exported here if it is missing")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the results go")
    parser.add_argument("--limit-gb", type=float, default=18.0, help="memory at which a process is killed")
    parser.add_argument("--child", nargs=3, metavar=("TOOL", "OBSERVER", "SAMPLES"), help=argparse.SUPPRESS)
    return parser.parse_args()


def _plan(samples: list[int]) -> list[tuple[str, str, int]]:
    """The float session for scale; ours for every number of samples; ONNX Runtime's for few, which surely fit."""
    smallest = min(samples)
    return [
        ("session", "-", smallest),
        *itertools.product(("edgeai",), OBSERVERS, samples),
        *itertools.product(("onnxruntime",), OBSERVERS, sorted({min(FEW, smallest), smallest})),
    ]


def _compared(plan: list[tuple[str, str, int]], samples: int) -> list[tuple[str, str, int]]:
    """The cells whose seconds are set against each other."""
    return [cell for cell in plan if cell[0] != "session" and cell[2] == samples]


def _joined(row: Row, again: Row) -> Row:
    """One row of all readings: the median of the seconds, the largest peak."""
    if {row["outcome"], again["outcome"]} != {"done"}:
        return row
    readings = [*row.get("readings", [row["seconds"]]), again["seconds"]]
    peak = max(row["peak_bytes"], again["peak_bytes"])
    return row | {"readings": readings, "seconds": statistics.median(readings), "peak_bytes": peak}


def _measured(cell: tuple[str, str, int], model: Path, limit_gb: float) -> Row:
    command = [sys.executable, __file__, "--model", str(model), "--child", *map(str, cell)]
    with tempfile.TemporaryFile("w+") as answer:
        started = time.monotonic()
        child = subprocess.Popen(command, stdout=answer)
        killed = False
        while (ended := os.wait4(child.pid, os.WNOHANG))[0] == 0:
            if not killed and _resident_bytes(child.pid) > limit_gb * 1e9:
                child.kill()
                killed = True
            time.sleep(0.2)
        child.returncode = os.waitstatus_to_exitcode(ended[1])
        seconds = time.monotonic() - started
        answer.seek(0)
        said = answer.read().splitlines()
    row: Row = {"tool": cell[0], "observer": cell[1], "samples": cell[2], "peak_bytes": ended[2].ru_maxrss * 1024}
    if killed:
        return row | {"seconds": seconds, "outcome": f"killed at {limit_gb:.1f} GB"}
    if child.returncode or not said:
        return row | {"seconds": seconds, "outcome": f"failed with {child.returncode}"}
    return row | {"outcome": "done"} | json.loads(said[-1])


def _available_gb() -> float:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024 / 1e9


def _resident_bytes(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError, IndexError):  # it has just ended
        return 0


def _child(tool: str, observer: str, samples: str, *, model: Path) -> Row:
    random = np.random.default_rng(0)
    shape = (int(samples), SEQUENCE)
    rows = {
        "input_ids": random.integers(0, 30522, shape),
        "attention_mask": np.ones(shape, np.int64),
        "token_type_ids": np.zeros(shape, np.int64),
    }
    runs: dict[str, Callable[..., Iterator[None]]] = {"session": _session, "edgeai": _ours, "onnxruntime": _theirs}
    run = runs[tool](observer, rows, model)
    next(run)  # imports are done
    started = time.perf_counter()
    next(run, None)
    return {"seconds": time.perf_counter() - started}


def _session(observer: str, rows: dict[str, np.ndarray], model: Path) -> Iterator[None]:
    del observer
    from edgeai.quantization.sessions import open_session

    yield
    session = open_session(model)
    for index in range(len(rows["input_ids"])):
        session.run(None, {name: array[index : index + 1] for name, array in rows.items()})


def _ours(observer: str, rows: dict[str, np.ndarray], path: Path) -> Iterator[None]:
    from edgeai import modelfile
    from edgeai.quantization.integer_nodes import possible, score_path, watched
    from edgeai.quantization.observers import observe
    from edgeai.quantization.preparation import prepare, weighted_nodes
    from edgeai.quantization.ranges import range_of
    from edgeai.samples import Samples

    yield
    model = modelfile.load(path)
    signature = modelfile.signature_of(model)
    model = prepare(model, path)
    kept = score_path(model.graph)
    nodes = [node for node in possible(model.graph, weighted_nodes(model)) if node.name not in kept]
    calibration = observe(model, watched(nodes), signature, Samples.from_rows(rows))
    for seen in calibration.tensors.values():
        range_of(seen, observer)  # type: ignore[arg-type]


def _theirs(observer: str, rows: dict[str, np.ndarray], path: Path) -> Iterator[None]:
    from edgeai.ort import onnxruntime

    onnxruntime()
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    from edgeai.quantization.integer_nodes import QDQ_OPS

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._index = iter(range(len(rows["input_ids"])))

        def get_next(self) -> dict[str, np.ndarray] | None:
            index = next(self._index, None)
            return None if index is None else {name: array[index : index + 1] for name, array in rows.items()}

    yield
    with tempfile.TemporaryDirectory() as directory:
        calibrator = create_calibrator(
            path,
            sorted(QDQ_OPS),
            augmented_model_path=str(Path(directory) / "augmented.onnx"),
            calibrate_method=CalibrationMethod[observer.capitalize()],
        )
        calibrator.collect_data(Reader())
        calibrator.compute_data()


def _key(row: Row) -> tuple[str, str, int]:
    return row["tool"], row["observer"], row["samples"]


def _save(path: Path, rows: dict[tuple[str, str, int], Row]) -> None:
    from edgeai.machine import machine
    from edgeai.storage import atomic_text

    data = {
        "machine": dataclasses.asdict(machine()),
        "sequence": SEQUENCE,
        "findings": _findings(list(rows.values())),
        "rows": list(rows.values()),
    }
    atomic_text(path, json.dumps(data, indent=1) + "\n", overwrite=True)


def _findings(rows: list[Row]) -> Row:
    """Does memory grow with samples, how much more than a session is it, and how many times faster is ours?"""
    found: Row = {}
    done = [row for row in rows if row["outcome"] == "done"]
    ours = [row for row in done if row["tool"] == "edgeai"]
    if peaks := [row["peak_bytes"] for row in ours]:
        found["largest peak over smallest"] = max(peaks) / min(peaks)
        for session in (row["peak_bytes"] for row in done if row["tool"] == "session"):
            found["MB above the session"] = (max(peaks) - session) / 1e6
    for mine, theirs in itertools.product(ours, rows):
        pair = mine["observer"], mine["samples"]
        if theirs["tool"] == "onnxruntime" and (theirs["observer"], theirs["samples"]) == pair:
            finished = theirs["outcome"] == "done"
            text = "times faster" if finished else "times faster than theirs until it was killed"
            found[f"{pair[0]}, {pair[1]} samples: {text}"] = theirs["seconds"] / mine["seconds"]
    return found


def _line(row: Row) -> tuple[str, ...]:
    seconds = f"{row['seconds']:.1f}", f"{row['seconds'] / row['samples']:.2f}"
    return (
        row["tool"], row["observer"], str(row["samples"]), *(seconds if row["outcome"] == "done" else ("-", "-")),
        f"{row['peak_bytes'] / 1e6:,.0f}", row["outcome"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
