from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeai.bench import Workload
from edgeai.bench.limits import Ceilings
from edgeai.benchmarking import bench
from edgeai.errors import ProviderError, UsageError
from edgeai.roofline import GraphProfiler
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


def test_where_it_ran_and_what_it_answered_stand_in_the_report(exported: Paths, built: Paths) -> None:
    report = bench([exported("mlp"), built("mlp")], workload=QUICK, ep=["cpu"])
    for result in report.subjects:
        assert result.ran.providers == ("cpu",)
        assert sum(result.ran.placement.values()) == result.ran.placement["cpu"] > 0
        assert result.phases.read_ns is not None and result.phases.create_warm_ns is not None
    accuracy = report.subjects[1].accuracy
    assert accuracy is not None and accuracy.cosine is not None
    assert accuracy.cosine > 0.9


def test_a_sweep_over_batches_compares_within_each(exported: Paths) -> None:
    report = bench([exported("mlp")], workload=QUICK, ep=["cpu"], batches=(1, 4))
    assert [(result.name, result.batch, result.verdict) for result in report.subjects] == [
        ("batch=1", 1, ""),
        ("batch=4", 4, ""),
    ]
    small, large = report.subjects
    for result, batch in ((small, 1), (large, 4)):
        assert result.samples_per_second == pytest.approx(result.statistics["throughput"].value * batch)
    assert any("the inputs were generated (batch=1 and batch=4)" in warning for warning in report.warnings)


def test_sizes_that_do_not_fit_are_refused(exported: Paths, trained: Paths) -> None:
    golden = Samples.load(trained("mlp") / "golden.npz")
    with pytest.raises(UsageError, match="sizes of axes are for generated inputs"):
        bench([exported("mlp")], golden, axes={"batch": (1, 2)}, workload=QUICK)
    with pytest.raises(UsageError, match="the model has no symbolic axis sequence .*its axes: batch"):
        bench([exported("mlp")], axes={"sequence": (1, 2)}, workload=QUICK)


def test_an_axis_is_swept(exported: Paths) -> None:
    report = bench([exported("mlp")], ep=["cpu"], axes={"batch": (1, 3)}, workload=QUICK)
    assert [(result.name, result.batch) for result in report.subjects] == [("batch=1", 1), ("batch=3", 3)]
    with pytest.raises(UsageError, match="batch 2: --axis batch says the same"):
        bench([exported("mlp")], ep=["cpu"], axes={"batch": (1, 3)}, batches=(2,), workload=QUICK)


def test_rooflines_are_added_where_one_caller_waits_for_each_answer(exported: Paths) -> None:
    ceilings = Ceilings({"float32": 1e11, "int8": 2e11}, 2e10, 5e10, 1 << 20, 1)

    profiler = GraphProfiler(ceilings)
    result = bench([exported("mlp")], ep=["cpu"], workload=QUICK, profiler=profiler).subjects[0]
    assert result.roofline is not None
    assert result.roofline.operations > 0
    assert result.roofline.latency_ns == result.statistics["p50"].value
    assert 0 < len(result.roofline.nodes) <= 10
    crowd = Workload(**{**vars(QUICK), "concurrency": 2})
    report = bench([exported("mlp")], ep=["cpu"], workload=crowd, profiler=profiler)
    assert report.subjects[0].roofline is None
    assert any("no roofline: latencies of runs that overlap" in warning for warning in report.warnings)
