"""A report as one page that needs nothing else: no network, no script, readable on a phone and in the dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeai.bench.charts import Scale, frontier, histogram, roofline_chart
from edgeai.bench.report import Report, SubjectResult
from edgeai.bench.table import cell, notes
from edgeai.errors import MissingDependencyError
from edgeai.storage import atomic_text

WIDTH, HEIGHT = 300, 140


def save_html(report: Report, path: str | Path, *, overwrite: bool = False) -> None:
    """Write the page, whole or not at all. Raises ExistsError, StorageError, MissingDependencyError (jinja2)."""
    atomic_text(path, to_html(report), overwrite=overwrite)


def to_html(report: Report) -> str:
    """The page. Every figure stands in the attribute `data-value` too, unrounded, as it stands in the JSON."""
    try:
        import jinja2
    except ImportError as error:
        raise MissingDependencyError(f"the page needs jinja2: {error}", hint="pip install 'edgeai[build]'") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = cell
    template = environment.get_template("report.html.j2")
    return template.render(
        report=report,
        notes=notes(report),
        width=WIDTH,
        height=HEIGHT,
        distribution=_distribution(report),
        frontier=_frontier(report),
        rooflines=[_roofline(report, result) for result in report.subjects if result.roofline],
        colours=[index % 6 for index in range(len(report.subjects))],
    )


def _distribution(report: Report) -> dict[str, Any] | None:
    """One histogram a subject, all over the same axis."""
    measured = [result for result in report.subjects if len(result.samples_ns)]
    if not measured:
        return None
    ends = [float(end) / 1e6 for r in measured for end in (r.samples_ns.min(), r.samples_ns.max())]
    scale = Scale.over(ends, WIDTH, log=True)
    rows = [
        (index, result, histogram(result.samples_ns, scale, 36, p99_ns=result.statistics["p99"].value))
        for index, result in enumerate(report.subjects)
        if len(result.samples_ns)
    ]
    return {"rows": rows, "ticks": scale.ticks()}


def _frontier(report: Report) -> dict[str, Any] | None:
    """Latency against what it costs: the error of the answers where it is known, else the size on the disk."""
    first = report.subjects[0]
    errors = {first.name: 0.0} | {
        r.name: r.accuracy.error for r in report.subjects if r.accuracy and r.accuracy.error is not None
    }
    by_error = len(errors) == len(report.subjects) and any(errors.values())
    cost = errors if by_error else {r.name: r.size_bytes / 2**20 for r in report.subjects if r.size_bytes}
    points = [
        (index, result, result.statistics["p50"].value / 1e6, cost[result.name])
        for index, result in enumerate(report.subjects)
        if result.statistics["p50"].value is not None and result.name in cost
    ]
    if len(points) < 2:
        return None
    x = Scale.over([point[2] for point in points], WIDTH)
    y = Scale.over([point[3] for point in points], HEIGHT)
    best = frontier([(point[2], point[3]) for point in points])
    return {
        "title": "error against the first" if by_error else "size, MiB",
        "dots": [
            {"index": i, "name": r.name, "x": x.at(ms), "y": round(HEIGHT - y.at(other), 2), "best": is_best}
            for (i, r, ms, other), is_best in zip(points, best, strict=True)
        ],
        "x": x.ticks(),
        "y": [(value, round(HEIGHT - at, 2)) for value, at in y.ticks()],
    }


def _roofline(report: Report, result: SubjectResult) -> dict[str, Any]:
    assert result.roofline is not None
    ceilings = report.ceilings
    chart = roofline_chart(result.roofline.nodes, ceilings, WIDTH, HEIGHT) if ceilings else None
    return {
        "result": result,
        "index": report.subjects.index(result),
        "slowest": max((node.time_ns for node in result.roofline.nodes), default=1) or 1,
        "chart": chart,
        "y": [(value / 1e9, round(HEIGHT - at, 2)) for value, at in chart.y.ticks()] if chart else [],
    }
