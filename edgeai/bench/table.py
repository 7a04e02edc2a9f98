"""A report as text cells: one row a subject."""

from __future__ import annotations

from edgeai.bench.report import Report
from edgeai.bench.statistics import STATISTICS, Estimate, Ratio


def rows(report: Report) -> list[list[str]]:
    """The table as text cells, a header first: one row a subject, one column a statistic. Latencies in ms."""
    scale = {"ns": (1e-6, "ms")}
    units = {name: scale.get(statistic.unit, (1.0, statistic.unit)) for name, statistic in STATISTICS.items()}
    header = ["subject", "runs", *(f"{name} {unit}" for name, (_, unit) in units.items())]
    extra = _extra(report)
    header += [name for name, _ in extra]
    header += ["first ms", "CPU ms/run", "peak MiB", "size MiB", "ratio", "verdict"]
    table = [header]
    for index, result in enumerate(report.subjects):
        cells = [result.name, str(len(result.samples_ns))]
        cells += [cell(result.statistics[name].value, factor) for name, (factor, _) in units.items()]
        cells += [column[index] for _, column in extra]
        cells += [
            cell(result.phases.first_inference_ns, 1e-6),
            cell(result.cpu_seconds_per_inference, 1e3),
            cell(result.peak_rss_bytes, 1 / 2**20),
            cell(result.size_bytes, 1 / 2**20),
            interval(result.ratio) if result.ratio else "-",
            result.verdict or "-",
        ]
        table.append(cells)
    return table


def _extra(report: Report) -> list[tuple[str, list[str]]]:
    """Columns that only some reports have something for."""
    workload, results = report.workload, report.subjects
    columns = {
        "samples/s": [r.samples_per_second if workload.inferences * r.batch > 1 else None for r in results],
        "capacity qps": [r.capacity.rate if r.capacity else None for r in results],
        "J/run": [r.energy.joules_per_inference for r in results],
        "cosine": [r.accuracy.cosine if r.accuracy else None for r in results],
        "% of limit": [r.roofline.percent_of_limit if r.roofline else None for r in results],
    }
    return [
        (name, [cell(value, digits=6 if name == "cosine" else 4) for value in values])
        for name, values in columns.items()
        if any(value is not None for value in values)
    ]


def cell(value: float | None, factor: float = 1.0, *, digits: int = 4) -> str:
    return "-" if value is None else f"{value * factor:.{digits}g}"


def interval(ratio: Ratio | Estimate) -> str:
    """Value and interval."""
    return f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


def notes(report: Report) -> list[str]:
    """What has to be read beside the table: where it ran, the loop's own cost, doubts, and that it is short."""
    lines = []
    for result in report.subjects:
        if result.ran.placement:
            total = sum(result.ran.placement.values())
            where = ", ".join(f"{name} {count}/{total}" for name, count in result.ran.placement.items())
            lines.append(f"{result.name}: nodes on {where}")
    lines += [
        f"energy is not known: {r.energy.reason}" for r in report.subjects if r.energy.joules_per_inference is None
    ]
    lines.append(f"the timing loop itself takes {report.overhead_ns / 1000:.2f} us a run")
    lines += report.warnings
    if report.short:
        lines.append(f"short: {report.short}")
    return list(dict.fromkeys(lines))
