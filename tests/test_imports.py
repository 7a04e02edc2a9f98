"""Importing is free, and the rooms that ship to a device need numpy and ONNX Runtime only."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgeai.runtime.providers.probe import MODEL

HEAVY = ("torch", "onnx", "onnx_ir", "onnxscript", "click", "rich")
LIGHT_ROOMS = (
    "edgeai.artifact",
    "edgeai.bench",
    "edgeai.bench.worker",
    "edgeai.bundle",
    "edgeai.doctor",
    "edgeai.errors",
    "edgeai.machine",
    "edgeai.metrics",
    "edgeai.probing",
    "edgeai.runtime",
    "edgeai.runtime.testing",
    "edgeai.samples",
    "edgeai.spec",
    "edgeai.verification",
)


def imported_by(code: str) -> set[str]:
    script = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(result.stdout.splitlines()[-1])}


def test_importing_edgeai_imports_nothing_else() -> None:
    found = imported_by("import edgeai")
    assert not found & {*HEAVY, "numpy", "onnxruntime", "model_defs"}


@pytest.mark.parametrize("room", LIGHT_ROOMS)
def test_light_rooms_work_where_the_heavy_packages_are_missing(room: str) -> None:
    blocked = (*HEAVY, "model_defs", "tokenizers", "safetensors", "sklearn", "psutil")
    found = imported_by(f"sys.modules.update(dict.fromkeys({blocked!r}))\nimport {room}")
    assert "edgeai" in found
    assert "onnxruntime" not in found, "ONNX Runtime is imported when a session is made, not before"


def test_models_run_where_there_are_no_file_locks(tmp_path: Path) -> None:
    (tmp_path / "add.onnx").write_bytes(MODEL)
    code = f"""
import sys
sys.modules["fcntl"] = None  # as on Windows
import numpy as np
import edgeai
from edgeai.errors import StorageError
from edgeai.storage import atomic_text
for room in {LIGHT_ROOMS!r}:
    __import__(room)
with edgeai.load("add.onnx", ep="cpu") as session:
    assert session.run({{"x": np.ones((1, 4), np.float32)}})["y"].tolist() == [[2, 2, 2, 2]]
try:
    atomic_text("out.txt", "text")
except StorageError as error:
    print(error.message)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.strip() == "this system has no file locks (fcntl), without which edgeai writes no files", done
    assert [file.name for file in tmp_path.iterdir()] == ["add.onnx"]


def test_help_needs_none_of_the_heavy_packages() -> None:
    code = (
        "from edgeai.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit as stop:\n    assert stop.code == 0"
    )
    found = imported_by(code)
    assert "click" in found
    assert not found & {"torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "rich", "numpy", "model_defs"}


def test_the_floors_hold() -> None:
    # Apart: it configures logging, which switches off every logger there is.
    code = "from importlinter.cli import lint_imports\nraise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
