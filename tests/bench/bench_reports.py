"""Reports made by hand, for tests of what reads them."""

from edgeai.bench.loop import Block, WarmUp
from edgeai.bench.noise import Noise
from edgeai.bench.report import Report, SubjectResult, shortfall
from edgeai.bench.subject import Phases
from edgeai.bench.workload import Workload
from edgeai.machine import Machine

MACHINE = Machine("Linux 6", "x86_64", "a CPU", ("avx", "avx2"), 2, 2**33, "3.11.7", {"numpy": "2.4.0"})
LOOK = Noise(0.1, 0.0, 17)


def result(name: str, samples_ns: list[int], *, blocks: int = 10, stable: bool = True) -> SubjectResult:
    return SubjectResult(
        name,
        Phases(1_000, 2_000, 9_000_000),
        WarmUp(30, 1_000_000, 1000, stable),
        tuple(Block(tuple(samples_ns), cpu_ns=2 * sum(samples_ns)) for _ in range(blocks)),
        factory="a:b",
        arguments={"path": "m.onnx", "threads": [1, 2]},
        size_bytes=3 * 2**20,
        baseline_rss_bytes=2**20,
        peak_rss_bytes=5 * 2**20,
    )


def report_of(*results: SubjectResult, workload: Workload | None = None) -> Report:
    workload = workload or Workload()
    analysed = [r.analysed(None if r is results[0] else results[0], workload, seed=0) for r in results]
    return Report(
        workload=workload,
        subjects=tuple(analysed),
        order=tuple(r.name for r in results for _ in r.blocks),
        machine=MACHINE,
        noise_before=LOOK,
        noise_after=Noise(None, None, None, "/proc/pressure/cpu: no such file"),
        seed=0,
        started_at="2026-01-01T00:00:00+00:00",
        finished_at="2026-01-01T00:01:00+00:00",
        interrupted=False,
        short=shortfall(results, workload),
        warnings=("one", "two"),
    )
