"""Reference families, trained a few steps and exported once for all workers: what every stage's tests start from."""

from __future__ import annotations

import copy
import os
import resource
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

# Two cores serve the whole suite: oversubscribed pools would make every test wait for every other.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
# A test that eats memory fails by name; without this the kernel kills the whole worker.
if (_LIMITS := resource.getrlimit(resource.RLIMIT_DATA))[0] == resource.RLIM_INFINITY:
    resource.setrlimit(resource.RLIMIT_DATA, (10 << 30, _LIMITS[1]))

Paths = Callable[[str], Path]
Once = Callable[[str, Callable[[Path], object]], Path]

FAMILY_NAMES = ("mlp", "cnn", "resnet", "transformer", "bert", "gpt")


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """once(name, make) -> a path of that name which `make` was asked to write, by one of all workers for all."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"

    def path(name: str, make: Callable[[Path], object]) -> Path:
        directory = shared / name.replace("/", "-")
        shared.mkdir(exist_ok=True)
        with FileLock(directory.with_suffix(".lock")):
            if not (done := directory.with_suffix(".done")).exists():
                shutil.rmtree(directory, ignore_errors=True)  # of one who failed
                directory.mkdir()
                make(directory / Path(name).name)
                done.touch()
        return directory / Path(name).name

    return path


@pytest.fixture(scope="session")
def trained(once: Once) -> Paths:
    """Name of a family -> the directory that `edgeai train --preset tiny` leaves."""
    from model_defs import FAMILIES
    from model_defs.train import train

    return cache(lambda name: once(f"trained/{name}", lambda out: train(FAMILIES[name], out, preset="tiny", steps=8)))


@pytest.fixture(scope="session")
def exported(trained: Paths, once: Once) -> Paths:
    """Name of a family -> its verified ONNX file."""
    from edgeai.exporting import export, resolve

    return cache(lambda name: once(f"exported/{name}.onnx", lambda out: export(resolve(str(trained(name))), out=out)))


@pytest.fixture(scope="session")
def built(trained: Paths, once: Once) -> Paths:
    """Name of a family -> its bundle, chosen by a very short measurement."""
    from edgeai.bench import Workload
    from edgeai.building import build
    from edgeai.tuning import Space

    few = Space(("mha", "portable"), ("int8-dynamic", "int8-static"), settings=False, finalists=2)
    quick = Workload(
        min_iterations=30, max_iterations=40, min_seconds=0, max_seconds=2, warmup_min_seconds=0,
        warmup_max_seconds=0.1, settle_seconds=0, rounds=5,
    )  # fmt: skip

    return cache(
        lambda name: once(
            f"built/{name}.bundle",
            lambda out: build(str(trained(name)), out=out, workload=quick, space=few, seconds=None),
        )
    )


_DRAWN: dict[str, dict[str, Any]] = {}


@pytest.fixture(autouse=True)
def _the_same_numbers_in_any_order(request: pytest.FixtureRequest) -> None:
    """A module's own generator starts each test where the module left it: the order of the tests is random."""
    generator = getattr(request.module, "_RANDOM", None)
    if isinstance(generator, np.random.Generator):
        state = _DRAWN.setdefault(request.module.__name__, copy.deepcopy(dict(generator.bit_generator.state)))
        generator.bit_generator.state = copy.deepcopy(state)
