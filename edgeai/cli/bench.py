"""edgeai bench"""

from __future__ import annotations

from pathlib import Path

import click

from edgeai.cli import options


@click.command("bench")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--ep", default="auto", show_default=True, help="Execution providers, with commas between them.")
@options.samples
@click.option("--batch", type=click.IntRange(1), help="Rows of samples in one inference. [default: 1]")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="Least measured time of each. [default: 3]")
@click.option("--json", "json_path", type=options.PATH, help="Write the whole report, every raw sample in it.")
@options.seed
@options.overwrite
def command(
    models: tuple[str, ...],
    ep: str,
    samples: Path | None,
    batch: int | None,
    seconds: float | None,
    json_path: Path | None,
    seed: int,
    overwrite: bool,
) -> int:
    """Measure models or bundles: each in its own process, all in turn, ratios with their interval.

    Exit code 130 if interrupted; what was measured until then is reported.
    """
    from edgeai.bench import Workload, rows
    from edgeai.benchmarking import bench
    from edgeai.cli.console import RichProgress, print_table
    from edgeai.samples import Samples
    from edgeai.storage import refuse_existing

    if json_path:
        refuse_existing(json_path, overwrite)
    least = 3.0 if seconds is None else seconds
    report = bench(
        models,
        Samples.load(samples) if samples else None,
        ep=ep.split(","),
        workload=Workload(batch=batch or 1, min_seconds=least, max_seconds=max(60.0, 2 * least)),
        seed=seed,
        progress=RichProgress(),
    )
    if json_path:
        report.save(json_path, overwrite=overwrite)
    header, *body = rows(report)
    print_table(header, body)
    for warning in (*report.warnings, *([f"short: {report.short}"] if report.short else [])):
        click.echo(warning, err=True)
    return 130 if report.interrupted else 0
