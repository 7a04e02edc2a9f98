"""A second real provider on a CPU: a plug-in library that takes a whole graph or none of it."""

from __future__ import annotations

import importlib.util
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import edgeai
from edgeai.errors import ProviderError
from edgeai.runtime.environment import environment_of
from edgeai.runtime.providers import PROVIDERS, CpuOptions, PluginOptions, resolve, runs
from edgeai.runtime.rehearsal import deadly_shapes

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("nxrt_ep_cpu") is None, reason="needs the plug-in provider: pip install nxrt-ep-cpu"
)
Write = Callable[..., Path]
X = np.arange(8, dtype=np.float32).reshape(2, 4) - 4
TAKEN = "t (float[n,4] x) => (float[n,4] y) { a = Relu(x) y = Softmax(a) }"
LEFT = "l (float[1,1,4,4] x) => (float[1,1,2,2] y) { a = Relu(x) y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a) }"


@pytest.fixture(scope="session")
def library() -> str:
    import nxrt_ep_cpu

    return str(nxrt_ep_cpu.get_library_path())


def test_a_library_is_named_by_its_path_and_gets_a_row(library: str) -> None:
    assert resolve(library) == resolve(["cpu_ep"]) == ("cpu_ep",)
    row = PROVIDERS["cpu_ep"]
    assert (row.ort_name, row.options) == ("cpu_ep", PluginOptions)
    assert Path(row.path).samefile(library)
    assert resolve([library, "cpu"]) == ("cpu_ep", "cpu")
    assert runs("cpu_ep") is None  # in a process of its own


def test_what_it_compiles_depends_on_its_version_and_its_hardware(library: str) -> None:
    resolve(library)
    found = environment_of("cpu_ep", PluginOptions())
    assert found["provider version"]
    assert re.fullmatch("CPU [0-9a-f]{4}:[0-9a-f]{4}", found["hardware"])
    assert environment_of("cpu", CpuOptions())["provider version"] == onnxruntime.__version__


def test_it_runs_where_it_was_asked_to(library: str, model: Write) -> None:
    with edgeai.load(model(TAKEN), ep=library, min_on_ep=0.95) as session:
        assert session.providers == ("cpu_ep", "cpu")
        assert session.placement.summary == "cpu_ep 2/2 (100%)"
        assert session.skipped == ()
        expected = np.exp(np.maximum(X, 0))
        np.testing.assert_allclose(session.run({"x": X})["y"], expected / expected.sum(1, keepdims=True), rtol=1e-5)
        profile = session.profile({"x": X}, runs=2)
        assert profile.time_share("cpu_ep") == 1.0
        assert len(profile.kernels) == 1  # both nodes are one kernel
        with pickle.loads(pickle.dumps(session)) as again:
            assert again.placement == session.placement
        assert deadly_shapes(session, [{"x": X[:0]}]) == {}


def test_case_14_listed_but_unused_is_refused(library: str, model: Write) -> None:
    with pytest.raises(ProviderError, match=r"cpu_ep implements no node of this model \(cpu 2/2 .100%.\)"):
        edgeai.load(model(LEFT), ep=library)


@pytest.mark.parametrize("how", ["fallback", "preference"])
def test_case_14_the_fallback_is_explicit_and_reported(library: str, model: Write, how: str) -> None:
    path = model(LEFT)
    asked: dict[str, Any] = {"ep": library, "fallback": ("cpu",)} if how == "fallback" else {"ep": (library, "cpu")}
    with edgeai.load(path, **asked) as session:
        assert session.providers == ("cpu",)
        assert session.placement.share("cpu") == 1.0
        assert "cpu_ep implements no node" in session.skipped[0]


def test_its_options_are_passed_on(library: str, model: Write) -> None:
    with edgeai.load(model(TAKEN), ep=library, options={"cpu_ep": {"anything": 1}}) as session:
        assert session.placement.share("cpu_ep") == 1.0


def test_what_it_cannot_compile_is_said_and_leaves_nothing(library: str, model: Write, tmp_path: Path) -> None:
    out = tmp_path / "compiled.onnx"
    with pytest.raises(ProviderError, match="execution provider cpu_ep compiles no part of it"):
        edgeai.compile(model(TAKEN), out=out, ep=library)
    assert not out.exists()


def test_nothing_of_it_reaches_stdout(library: str, model: Write) -> None:
    code = f"import edgeai; edgeai.load({str(model(TAKEN))!r}, ep={library!r}).close()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, "")
