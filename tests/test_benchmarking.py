from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeai.bench import Workload
from edgeai.benchmarking import bench
from edgeai.errors import ProviderError, UsageError
from edgeai.samples import Samples

Paths = Callable[[str], Path]
QUICK = Workload(
    min_iterations=30, max_iterations=40, min_seconds=0, max_seconds=2, warmup_min_seconds=0,
    warmup_max_seconds=0.1, settle_seconds=0, rounds=5,
)  # fmt: skip


def test_a_bundle_beside_its_model(built: Paths, exported: Paths) -> None:
    report = bench([exported("mlp"), built("mlp")], workload=QUICK)
    model, bundle = report.subjects
    assert (model.name, bundle.name) == (str(exported("mlp")), str(built("mlp")))
    assert model.size_bytes == exported("mlp").stat().st_size
    assert bundle.size_bytes == sum(path.stat().st_size for path in built("mlp").iterdir())
    assert bundle.ratio is not None
    assert model.peak_rss_bytes is not None
    assert model.peak_rss_bytes > 10_000_000
    assert len(model.samples_ns) >= 10


def test_samples_and_batches(exported: Paths, trained: Paths) -> None:
    golden = Samples.load(trained("mlp") / "golden.npz")
    workload = Workload(**{**QUICK.__dict__, "batch": 4})
    report = bench([exported("mlp")], golden, workload=workload, ep=["cpu"])
    assert report.workload.batch == 4
    assert report.subjects[0].name == str(exported("mlp"))


def test_what_does_not_fit_is_said_before_measuring(exported: Paths) -> None:
    with pytest.raises(UsageError, match="nothing to measure"):
        bench([])
    with pytest.raises(UsageError, match="do not fit: .*z"):
        bench([exported("mlp")], Samples.from_rows({"z": np.zeros((2, 64), np.float32)}), workload=QUICK)
    with pytest.raises(ProviderError, match="cuda"):
        bench([exported("mlp")], ep=["cuda"], workload=QUICK)
