"""Weights beside the graph, from end to end: what happens beyond 2 GB, at a size that a test can afford."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import edgeai
from edgeai import modelfile, storage
from edgeai.errors import VerificationError
from edgeai.exporting import capture, export, resolve
from edgeai.external import external_files
from edgeai.storage import sha256


@pytest.fixture(autouse=True)
def _small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modelfile, "EXTERNAL_DATA_ABOVE_BYTES", 1000)


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))


X = {"input": torch.randn(3, 32)}


def test_a_large_module_becomes_two_files_that_prove_and_move_together(tmp_path: Path) -> None:
    artifact = export(module(), X, out=tmp_path / "m.onnx")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted((*external_files(artifact.path), "m.onnx")) and len(names) == 2
    (data,) = external_files(artifact.path)
    assert re.fullmatch(r"m-[0-9a-f]{16}\.data", data)
    assert sha256(tmp_path / data).startswith(data[2:18])
    assert artifact.path.stat().st_size < 8000 < (tmp_path / data).stat().st_size
    assert modelfile.open_artifact(artifact.path).lineage[0].options["verified"]["axes"] == {"batch": [1, 64]}

    shutil.move(tmp_path / "m.onnx", (tmp_path / "elsewhere").mkdir() or tmp_path / "elsewhere" / "renamed.onnx")
    shutil.move(tmp_path / data, tmp_path / "elsewhere" / data)
    with edgeai.load(tmp_path / "elsewhere" / "renamed.onnx") as session:
        expected = module()(X["input"]).detach().numpy()
        np.testing.assert_allclose(session.run({"input": X["input"].numpy()})["output"], expected, atol=1e-5)
    assert edgeai.verify(module(), tmp_path / "elsewhere" / "renamed.onnx").verdict == "verified"


def test_both_files_have_the_same_bytes_again(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        export(module(), X, out=tmp_path / name / "m.onnx")
    first, second = (sorted((tmp_path / name).iterdir()) for name in ("a", "b"))
    assert [path.name for path in first] == [path.name for path in second]
    assert [sha256(path) for path in first] == [sha256(path) for path in second]


def test_weights_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx_ir as ir

    writes = []
    real = ir.save
    monkeypatch.setattr(ir, "save", lambda *args, **options: (writes.append(options), real(*args, **options))[1])
    export(module(), X, out=tmp_path / "m.onnx")
    assert len([options for options in writes if options.get("external_data")]) == 1


def test_an_onnx_source_with_weights_beside_it(tmp_path: Path) -> None:
    export(module(), X, out=tmp_path / "m.onnx")
    converted = export(resolve(str(tmp_path / "m.onnx")), out=tmp_path / "n.onnx", opset=21)
    assert len(converted.lineage) == 2
    assert external_files(converted.path)[0].startswith("n-")


def test_what_is_not_verified_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    during: list[str] = []

    def refuse(*args: object, **options: object) -> None:
        during.extend(os.listdir(tmp_path))
        raise VerificationError("refused for the test")

    monkeypatch.setattr(capture, "verify", refuse)
    with pytest.raises(VerificationError, match="refused for the test"):
        export(module(), X, out=tmp_path / "m.onnx")
    assert during and all(storage.is_partial(Path(name)) for name in during)
    assert not list(tmp_path.iterdir())


KILLED = """
import os, signal, torch
from torch import nn
from edgeai import modelfile
from edgeai.exporting import capture, export
modelfile.EXTERNAL_DATA_ABOVE_BYTES = 1000
capture.verify = lambda *args, **options: os.kill(os.getpid(), signal.SIGKILL)
export(nn.Linear(32, 64), {"input": torch.randn(3, 32)}, out="m.onnx")
"""


def test_a_kill_before_the_proof_leaves_temporary_names_which_the_next_export_removes(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = list(tmp_path.iterdir())
    assert left and all(storage.is_partial(path) for path in left)
    export(module(), X, out=tmp_path / "m.onnx")
    assert not [path for path in tmp_path.iterdir() if storage.is_partial(path)]
