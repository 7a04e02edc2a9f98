"""A session in another process: forked along, or sent there as a recipe."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeai.artifact import Artifact
from edgeai.bundle import Golden, pack
from edgeai.errors import UsageError
from edgeai.runtime.loading import load
from edgeai.runtime.session import Session
from edgeai.runtime.settings import SessionSettings

Write = Callable[..., Path]
X = np.arange(6, dtype=np.float32).reshape(2, 3)

# The parent answers, forks while another thread of it is running the model, and both answer on. Nothing may hang, not
# even the child's ordinary exit, and what the parent unpacked must survive the child.
_FORKING = """
import os, sys, threading
import numpy as np
import edgeai
from edgeai.errors import UsageError
x = np.ones((64, 3), np.float32)
session = edgeai.load(sys.argv[1], ep="cpu", settings=edgeai.SessionSettings(threads=2))
binding = session.bind({"x": x})
stop = threading.Event()
def busy():
    while not stop.is_set(): session.run({"x": x})
thread = threading.Thread(target=busy, daemon=True)
thread.start()
for _ in range(3):
    child = os.fork()
    if not child:
        assert np.array_equal(session.run({"x": x})["y"], 2 * x)
        assert np.array_equal(session.run({"x": x}, timeout=60)["y"], 2 * x)
        try: session.run_bound(binding)
        except UsageError as error: assert "bind again" in str(error)
        else: raise SystemExit("it ran in the parent's session")
        assert np.array_equal(session.run_bound(session.bind({"x": x}))["y"], 2 * x)
        assert not os.fork() or os.wait()[1] == 0  # a grandchild that never runs it
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert np.array_equal(session.run_bound(binding)["y"], 2 * x)
stop.set()
thread.join(60)
assert session.path.exists()
session.close()
child = os.fork()
if not child:
    try: session.run({"x": x})
    except UsageError as error: os._exit(0 if "closed" in str(error) else 1)
    os._exit(2)
assert os.waitpid(child, 0)[1] == 0
print("both")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("kind", ["model", "directory", "zip"])
def test_a_forked_child_answers_and_leaves_its_parent_alone(
    double: Path, golden_double: Golden, tmp_path: Path, kind: str
) -> None:
    path = double
    if kind != "model":
        with load(double, ep="cpu") as session:
            artifact = Artifact(double, signature=session.signature)
        path = tmp_path / ("b.zip" if kind == "zip" else "b.bundle")
        pack(artifact, path, golden=golden_double).close()
    command = [sys.executable, "-W", "ignore", "-c", _FORKING, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "both\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_refuses_a_file_that_was_replaced_meanwhile(double: Path, model: Write) -> None:
    code = f"""
import os, edgeai, numpy as np
from edgeai.errors import ModelFormatError
session = edgeai.load({str(double)!r}, ep="cpu")
os.replace({str(model("o (float[n] x) => (float[n] y) { y = Neg(x) }", name="other.onnx"))!r}, {str(double)!r})
if not os.fork():
    try: session.run({{"x": np.ones((1, 3), np.float32)}})
    except ModelFormatError as error: os._exit(0 if "replaced by another model" in str(error) else 1)
    os._exit(2)
assert os.wait()[1] == 0
assert session.run({{"x": np.ones((1, 3), np.float32)}})["y"].max() == 2
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_session_is_pickled_as_a_recipe(double: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(double.parent)
    settings = SessionSettings(threads=1, shrink="never", config={"session.dynamic_block_base": "4"})
    with Session(double.name, ep=("cpu",), settings=settings) as session:
        recipe = pickle.dumps(session)
    monkeypatch.chdir("/")
    with pickle.loads(recipe) as again:
        assert (again.settings, again.signature, again.providers) == (settings, session.signature, ("cpu",))
        np.testing.assert_array_equal(again.run({"x": X})["y"], 2 * X)
    with pytest.raises(UsageError, match="the session is closed"):
        pickle.dumps(session)


def _doubled(session: Session) -> Any:
    with session:
        return session.run({"x": X})["y"]


def test_a_session_is_sent_to_a_new_process(double: Path) -> None:
    with Session(double) as session, multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply_async(_doubled, (session,)).get(120), 2 * X)
