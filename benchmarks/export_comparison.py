"""What three exporters write of the same modules, and which of the written files are wrong.

    python -m venv OPTIMUM && OPTIMUM/bin/pip install -r benchmarks/comparison/optimum-requirements.txt
    python benchmarks/export_comparison.py --optimum-python OPTIMUM/bin/python [--only NAME...] [--resume] [--json PATH]

Each tool is called as its documentation says, with dynamic axes asked for. Each file is judged by zoo/recheck.py.
Leaves `benchmarks/results/export_comparison.json`; `scripts/export_page.py` writes docs/export.md from it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import logging
import os
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn
from zoo.apart import EndedError, apart
from zoo.recheck import Arrays, Recheck, answer, fresh_sizes, recheck
from zoo.subject import Subject
from zoo.trouble import CASES, Case

import edgeai
from edgeai.cli.console import RichProgress, print_table
from edgeai.errors import EdgeAIError
from edgeai.exporting import resolve
from edgeai.machine import machine
from edgeai.storage import atomic_text

RESULTS = Path(__file__).parent / "results" / "export_comparison.json"
TOOLS = ("torch.onnx", "optimum", "edgeai")
TIMEOUT = 300.0

Cell = dict[str, Any]
Row = dict[str, Any]


class RefusedError(Exception):
    """The tool wrote nothing, and this is what it said."""


def main() -> None:
    arguments = _arguments()
    optimum = _optimum_versions(arguments.optimum_python) if arguments.optimum_python else None
    kept = _rows(arguments.json) if arguments.resume or arguments.only else {}
    cases = [case for case in CASES if case.name in arguments.only or not (arguments.only or case.name in kept)]
    with RichProgress().task("comparison", len(cases) * len(TOOLS)) as advance:
        for case in cases:
            row: Row = {"name": case.name, "what": case.what, "task": case.task}
            for tool in TOOLS:
                row[tool] = _cell(tool, case, arguments.optimum_python)
                advance(note=f"{case.name}, {tool}")
            kept[case.name] = row
            _save(arguments.json, kept, optimum)
    rows = [kept[case.name] for case in CASES if case.name in kept]
    print_table(("module", *TOOLS), [(row["name"], *(row[tool]["outcome"] for tool in TOOLS)) for row in rows])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare what exporters write.")
    parser.add_argument("--optimum-python", type=Path, help="the Python of an environment that has optimum-onnx")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these alone; other rows are kept")
    parser.add_argument("--resume", action="store_true", help="keep the rows that are there")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the results go")
    return parser.parse_args()


def _rows(path: Path) -> dict[str, Row]:
    return {row["name"]: row for row in json.loads(path.read_text())["rows"]} if path.exists() else {}


def _save(path: Path, rows: Mapping[str, Row], optimum: Mapping[str, str] | None) -> None:
    told = dataclasses.asdict(machine())
    told["versions"] |= {"transformers": version("transformers")}
    data = {"machine": told, "optimum": optimum, "rows": [rows[case.name] for case in CASES if case.name in rows]}
    atomic_text(path, json.dumps(data, indent=1) + "\n", overwrite=True)


def _cell(tool: str, case: Case, optimum: Path | None) -> Cell:
    if tool == "optimum" and case.task is None:
        return {"outcome": "cannot take it", "detail": "not a model of the transformers library"}
    if tool == "optimum" and optimum is None:
        return {"outcome": "not run", "detail": "no --optimum-python was given"}
    try:
        cell: Cell = apart(_judged, tool, case.name, optimum, timeout=TIMEOUT)
    except EndedError as error:
        return {"outcome": "not written", "detail": str(error)}
    return cell


def _judged(tool: str, name: str, optimum: Path | None) -> Cell:
    torch.set_num_threads(1)
    logging.disable()
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        return _judge(tool, name, optimum)


def _judge(tool: str, name: str, optimum: Path | None) -> Cell:
    case = next(case for case in CASES if case.name == name)
    subject = case.make()
    with tempfile.TemporaryDirectory(prefix="edgeai-comparison-") as directory:
        try:
            path = _write(tool, case, subject, Path(directory), optimum)
        except RefusedError as error:
            return {"outcome": "not written", "detail": str(error).replace(directory, "").strip("/ ")}
        # The answers of a module made anew, in eval mode: what the file is for.
        reference = partial(answer, case.make().module.eval())
        example = {axis.name: size for axis, size in _example_sizes(subject)}
        plans = [example, *fresh_sizes(subject.dynamic)]
        found = recheck(path, reference, subject.example, subject.dynamic, plans=plans, complete=_completed)
    return {"outcome": _outcome(found), "detail": found.finding, "shapes": found.shapes, "error": found.error}


def _write(tool: str, case: Case, subject: Subject, directory: Path, optimum: Path | None) -> Path:
    if tool == "optimum":
        assert optimum is not None and case.task is not None
        return _with_optimum(optimum, case.task, subject.module, directory)
    if tool == "torch.onnx":
        return _with_torch(subject, directory / "model.onnx")
    cached = case.task is not None and case.task.endswith("-with-past")
    return _with_edgeai(subject, directory / "model.onnx", directory / "source" if cached else None)


def _with_torch(subject: Subject, path: Path) -> Path:
    shapes = {name: {i: axis.name for i, axis in axes.items()} for name, axes in subject.dynamic.items()}
    try:
        torch.onnx.export(subject.module, (), path, kwargs=dict(subject.example), dynamic_shapes=shapes)
    except Exception as error:  # whatever the exporter lets through
        raise RefusedError(_cause(error)) from error
    return path


def _cause(error: BaseException) -> str:
    """The exporter wraps what went wrong in advice about itself; the cause is below."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _with_edgeai(subject: Subject, path: Path, generating: Path | None) -> Path:
    """`generating`: where to save a model that is to be exported with its cache, as `hf:DIR`."""
    try:
        if generating is not None:
            subject.module.save_pretrained(generating)
            edgeai.export(resolve(f"hf:{generating}", task="generate"), out=path)
            return path
        edgeai.export(subject.module, subject.example, out=path, dynamic=subject.dynamic)
    except EdgeAIError as error:
        raise RefusedError(error.message.removeprefix(f"{path} is not written: ")) from error
    return path


def _with_optimum(python: Path, task: str, module: nn.Module, directory: Path) -> Path:
    source, out = directory / "source", directory / "out"
    module.save_pretrained(source)
    command = [str(python.parent / "optimum-cli"), "export", "onnx", "--model", str(source), "--task", task, str(out)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment | {"HF_HUB_OFFLINE": "1"})
    if not (out / "model.onnx").exists():
        lines = done.stderr.strip().splitlines() or ["no model.onnx, and not a word"]
        raise RefusedError(lines[-1])
    return out / "model.onnx"


def _completed(feed: Arrays, inputs: Sequence[Any]) -> Arrays:
    """What optimum's files take beyond the module's inputs: the defaults that the module itself would use."""
    batch, *rest = next(iter(feed.values())).shape
    more: Arrays = {}
    for row in inputs:
        if row.name in feed:
            continue
        if row.name == "token_type_ids":
            more[row.name] = np.zeros((batch, *rest), np.int64)
        elif row.name == "attention_mask":
            more[row.name] = np.ones((batch, *rest), np.int64)
        elif row.name == "position_ids":
            more[row.name] = np.tile(np.arange(rest[0]), (batch, 1))
        elif row.name.startswith("past_key_values"):  # a cache with nothing in it
            more[row.name] = np.zeros((batch, row.shape[1], 0, row.shape[3]), np.float32)
    return feed | more


def _example_sizes(subject: Subject) -> Iterator[tuple[Any, int]]:
    for name, axes in subject.dynamic.items():
        for index, axis in axes.items():
            yield axis, subject.example[name].shape[index]


def _outcome(found: Recheck) -> str:
    if found.right:
        return "right"
    words = {"refuses": "refuses sizes that the module takes", "wrong at padding": "wrong values, at padding alone"}
    return words.get(found.wrong, found.wrong)


def _optimum_versions(python: Path) -> dict[str, str]:
    code = (
        "import importlib.metadata as m, json;"
        "print(json.dumps({n: m.version(n) for n in ('optimum-onnx', 'optimum', 'transformers', 'torch', 'onnx')}))"
    )
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
