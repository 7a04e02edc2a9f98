"""The target-specific output: same answers here, refused elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeai.runtime.made_for as made_for
from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.bundle import pack
from edgeai.errors import ExistsError, ModelFormatError, UsageError
from edgeai.external import external_files, metadata
from edgeai.graph import optimize, specialize
from edgeai.machine import Machine, machine
from edgeai.runtime import load
from edgeai.runtime.made_for import MADE_FOR_KEY
from edgeai.runtime.providers import availability

from .conftest import answers

_W = np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32)
_MLP = "g (float[n, 32] x) => (float[n, 32] y) { h = MatMul(x, W) r = Relu(h) y = MatMul(r, W) }"

# The weights' prepacked copies stand under keys that onnx_ir does not know.
pytestmark = pytest.mark.filterwarnings("ignore:Ignoring unknown external data key:UserWarning")


@pytest.fixture
def portable(write: Callable[..., Artifact]) -> Artifact:
    return write(_MLP, W=_W)


def _on(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Machine:
    other = dataclasses.replace(machine(), **changes)
    monkeypatch.setattr(made_for, "machine", lambda: other)
    return other


def test_it_answers_as_the_portable_model_does_and_says_what_it_is_for(portable: Artifact, tmp_path: Path) -> None:
    done = specialize(portable, out=tmp_path / "s.onnx")
    feed = {"x": np.ones((3, 32), np.float32)}
    with load(done.path, ep="cpu") as session:
        np.testing.assert_allclose(session.run(feed)["y"], answers(portable.path, feed)[0], rtol=1e-6)
        assert [step.tool for step in session.lineage] == ["specialize"]
        assert session.lineage[-1].options["made_for"]["features"] == list(machine().features)
    (data,) = external_files(done.path)
    assert data.startswith("s-") and data.endswith(".prepacked")
    assert (tmp_path / data).stat().st_size >= 2 * _W.nbytes, "the originals, and as the kernels want them"
    assert MADE_FOR_KEY in metadata(done.path)
    assert metadata(portable.path).keys().isdisjoint({MADE_FOR_KEY})


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"features": ()}, "a CPU with .*avx.* .not here."),
        ({"features": ("amx_int8", *machine().features)}, "a CPU without amx_int8 .here with."),
        ({"architecture": "riscv64"}, "architecture .* .here riscv64."),
    ],
)
def test_another_cpu_refuses_it_in_one_line(
    portable: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], difference: str
) -> None:
    done = specialize(portable, out=tmp_path / "s.onnx")
    _on(monkeypatch, **changes)
    with pytest.raises(ModelFormatError, match=rf"s.onnx was made for {difference}.*make it again here") as raised:
        load(done.path, ep="cpu")
    assert "\n" not in str(raised.value)
    load(portable.path, ep="cpu").close()


def test_another_version_refuses_it(portable: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = specialize(portable, out=tmp_path / "s.onnx")
    real = made_for.onnxruntime()
    monkeypatch.setattr(made_for, "onnxruntime", lambda: type("Other", (), {"__version__": "1.99.0"}))
    with pytest.raises(ModelFormatError, match=rf"ONNX Runtime {real.__version__} .here 1\.99\.0."):
        load(done.path, ep="cpu")


def test_another_provider_refuses_it(portable: Artifact, tmp_path: Path) -> None:
    done = specialize(portable, out=tmp_path / "s.onnx")
    with pytest.raises(ModelFormatError, match="execution provider cpu .here cuda."):
        load(done.path, ep="cuda")


def test_auto_is_the_provider_that_it_was_made_for(
    portable: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = specialize(portable, out=tmp_path / "s.onnx")
    monkeypatch.setattr(availability, "runs", lambda name: None)  # as if every provider ran here, CUDA first
    assert availability.resolve("auto") == ("cuda",)
    with load(done.path) as session:
        assert session.providers == ("cpu",)
    with pack(done, tmp_path / "m.bundle") as bundle, load(bundle.path) as session:
        assert session.providers == ("cpu",)


def test_a_note_that_cannot_be_read_is_refused(portable: Artifact, tmp_path: Path) -> None:
    model = modelfile.load(portable.path)
    model.metadata_props[MADE_FOR_KEY] = '{"cpu": "fast"}'
    path = modelfile.save(model, Artifact(tmp_path / "odd.onnx")).path
    with pytest.raises(ModelFormatError, match="what it was made for is unreadable"):
        load(path, ep="cpu")


def test_it_cannot_be_rewritten_again(portable: Artifact, tmp_path: Path) -> None:
    done = specialize(portable, out=tmp_path / "s.onnx")
    for again in (optimize, specialize):
        with pytest.raises(UsageError, match="made for one machine.*start from the portable model"):
            again(done, out=tmp_path / "t.onnx")
    with pytest.raises(ExistsError):
        specialize(portable, out=tmp_path / "s.onnx")
    specialize(portable, out=tmp_path / "s.onnx", overwrite=True)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".onnx", ".onnx", ".prepacked"]
