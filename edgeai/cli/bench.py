"""edgeai bench"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click
from click.core import ParameterSource

from edgeai.cli import options
from edgeai.errors import UsageError


class _Sizes(click.ParamType[tuple[str, tuple[int, ...]]]):
    """NAME=N,N,...: sizes of one axis."""

    name = "sizes"

    def convert(
        self, value: str | tuple[str, tuple[int, ...]], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[int, ...]]:
        if isinstance(value, tuple):
            return value
        name, _, sizes = value.partition("=")
        return name, _counts(sizes, self, value, param, ctx)


class _Counts(click.ParamType[tuple[int, ...]]):
    """N,N,...: whole numbers of at least 1."""

    name = "counts"

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        return value if isinstance(value, tuple) else _counts(value, self, value, param, ctx)


def _counts(
    text: str, kind: click.ParamType[object], value: str, param: click.Parameter | None, ctx: click.Context | None
) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        kind.fail(f"{value!r} does not give whole numbers above 0, with commas between them", param, ctx)
    return tuple(map(int, parts))


_MOST_RUNS = 1_000_000  # every sample is kept


@click.command("bench")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--ep", default="auto", show_default=True, help="Execution providers, with commas between them.")
@options.samples
@click.option(
    "--batch", type=_Counts(), metavar="N,...", help="Rows in one inference; several are a sweep. [default: 1]"
)
@click.option("--axis", "axes", type=_Sizes(), multiple=True, metavar="NAME=N,...",
              help="Sizes of an axis, for inputs that are generated: sequence=32,128. Repeatable.")  # fmt: skip
@click.option("--scenario", type=click.Choice(["single", "multi", "server", "offline"]), default="single",
              show_default=True, help="What MLPerf calls a scenario.")  # fmt: skip
@click.option("--concurrency", type=click.IntRange(1), default=1, show_default=True,
              help="Callers beside each other, or servers of one queue.")  # fmt: skip
@click.option("--rate", type=float, help="server: queries that arrive in a second. [default: search the highest]")
@click.option("--bound", type=float, metavar="MS", help="server: what the tail's latency may be while searching.")
@click.option("--tail", type=int, default=99, show_default=True, help="server: the percentile that keeps the bound.")
@click.option(
    "--processes",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Fresh processes of each model, one after another: chance in one start must not pass for speed.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    help="Least measured time of each, within a million runs. [default: 3, within 20000 runs]",
)
@click.option("--roofline", is_flag=True, help="Time each node, and compare with what this machine can do.")
@click.option("--json", "json_path", type=options.PATH, help="Write the whole report, every raw sample in it.")
@click.option("--html", "html_path", type=options.PATH, help="Write the report as one page; implies --roofline.")
@options.seed
@options.overwrite
def command(
    models: tuple[str, ...],
    ep: str,
    samples: Path | None,
    batch: tuple[int, ...] | None,
    axes: tuple[tuple[str, tuple[int, ...]], ...],
    scenario: str,
    concurrency: int,
    rate: float | None,
    bound: float | None,
    tail: int,
    processes: int,
    seconds: float | None,
    roofline: bool,
    json_path: Path | None,
    html_path: Path | None,
    seed: int,
    overwrite: bool,
) -> int:
    """Measure models or bundles: each in its own process, all in turn, ratios with their interval.

    Exit code 130 if interrupted; what was measured until then is reported.
    """
    from edgeai.bench import Workload, rows
    from edgeai.bench.html import save_html
    from edgeai.bench.table import notes
    from edgeai.benchmarking import bench
    from edgeai.cli.console import RichProgress, print_table
    from edgeai.samples import Samples
    from edgeai.storage import refuse_directory, refuse_existing

    profiler = None
    if roofline or html_path:
        from edgeai.roofline import GraphProfiler

        profiler = GraphProfiler()
    for path in (json_path, html_path):
        if path:
            refuse_directory(path)
            refuse_existing(path, overwrite)
    if repeated := [name for name, count in Counter(name for name, _ in axes).items() if count > 1]:
        raise UsageError(f"--axis {', '.join(repeated)} is given more than once", hint="write --axis NAME=N,N")
    if bound is None and click.get_current_context().get_parameter_source("tail") is not ParameterSource.DEFAULT:
        raise UsageError("--tail is the percentile that keeps --bound, which is not given", hint="give --bound MS")
    least = 3.0 if seconds is None else seconds
    batches = batch or (1,)
    report = bench(
        models,
        Samples.load(samples) if samples else None,
        ep=ep.split(","),
        workload=Workload(
            scenario,
            batches[0] if len(batches) == 1 else 1,
            min_seconds=least,
            max_seconds=max(60.0, 2 * least),
            max_iterations=Workload.max_iterations if seconds is None else _MOST_RUNS,
            concurrency=concurrency,
            rate=rate,
            latency_bound_ms=bound,
            tail_percent=tail,
            processes=processes,
        ),
        batches=batches,
        axes=dict(axes),
        profiler=profiler,
        seed=seed,
        progress=RichProgress(),
    )
    if json_path:
        report.save(json_path, overwrite=overwrite)
    if html_path:
        save_html(report, html_path, overwrite=overwrite)
    header, *body = rows(report)
    print_table(header, body)
    for line in notes(report):
        click.echo(line, err=True)
    return 130 if report.interrupted else 0
