"""Makes `bench_engines` importable, here and (through sys.path) in the worker processes."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))

from bench_engines import FakeClock

from edgeai.samples import Samples


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def samples() -> Samples:
    """Three rows, x (3, 2)."""
    return Samples.from_rows({"x": np.arange(6, dtype=np.float32).reshape(3, 2)})


@pytest.fixture
def samples_path(samples: Samples, tmp_path: Path) -> Path:
    path = tmp_path / "samples.npz"
    samples.save(path)
    return path
