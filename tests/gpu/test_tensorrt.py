"""Engines that are really built: kept, found again, rebuilt when spoiled, and compiled ahead. Needs TensorRT."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeai
from edgeai.errors import ModelFormatError, UntrustedCodeError
from edgeai.external import compiled_nodes
from edgeai.probing import probe_feeds
from edgeai.runtime.providers import runs

REASON = runs("tensorrt")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(REASON is not None, reason=f"tensorrt does not run here: {REASON}"),
]
Paths = Callable[[str], Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEAI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def engines(cache: Path) -> dict[Path, tuple[int, int]]:
    """The engines with their sizes and times: what was not built again is the same in both."""
    return {file: (file.stat().st_size, file.stat().st_mtime_ns) for file in cache.rglob("*.engine")}


def answers(path: Path, **how: Any) -> list[Any]:
    with edgeai.load(path, ep="tensorrt", **how) as session:
        return [session.run(feed) for feed in some_feeds(session)]


def some_feeds(session: edgeai.Session) -> list[dict[str, Any]]:
    return [dict(probe.feed) for probe in probe_feeds(session.signature, count=9)]


def test_case_15_an_engine_is_found_again_and_a_spoiled_one_is_built_again(exported: Paths, cache: Path) -> None:
    first = answers(exported("mlp"))
    built = engines(cache)
    assert built
    second = answers(exported("mlp"))
    assert engines(cache) == built
    for file in built:
        file.write_bytes(file.read_bytes()[:1000])
    third = answers(exported("mlp"))
    assert engines(cache).keys() == built.keys()
    assert all(size > 1000 for size, _ in engines(cache).values())
    uncached = answers(exported("mlp"), options={"tensorrt": {"engine_cache": False}})
    for other in (second, third, uncached):
        for one, two in zip(first, other, strict=True):
            for name in one:
                np.testing.assert_allclose(one[name], two[name], rtol=1e-2, atol=1e-3)


def test_every_declared_size_fits_the_first_engine(exported: Paths, cache: Path) -> None:
    with edgeai.load(exported("mlp"), ep="tensorrt") as session:
        built = engines(cache)
        assert built, "with a profile, the engine is built when the session is made"
        for feed in some_feeds(session):
            session.run(feed)
    assert engines(cache) == built


def test_case_16_two_processes_at_once_build_one_engine(exported: Paths, cache: Path) -> None:
    code = f"import edgeai; edgeai.load({str(exported('mlp'))!r}, ep='tensorrt').close()"
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        out, _ = process.communicate(timeout=600)
        assert (process.returncode, out) == (0, b"")
    records = list(cache.rglob("entry.json"))
    assert len(records) == 1


def test_a_compiled_model_opens_here_and_nowhere_else(exported: Paths, cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "compiled.onnx"
    edgeai.compile(exported("mlp"), out=out, ep="tensorrt")
    assert compiled_nodes(out)
    for one, two in zip(answers(exported("mlp")), answers(out), strict=True):
        for name in one:
            np.testing.assert_allclose(one[name], two[name], rtol=1e-2, atol=1e-3)
    with pytest.raises(ModelFormatError, match=r"tensorrt \(here cpu\)"):
        edgeai.load(out, ep="cpu")
    for file in (cache / "compiled").iterdir():
        file.unlink()
    with pytest.raises(UntrustedCodeError, match="compiled elsewhere"):
        edgeai.load(out, ep="tensorrt")
