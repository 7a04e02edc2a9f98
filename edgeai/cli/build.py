"""edgeai build"""

from __future__ import annotations

from pathlib import Path

import click

from edgeai.cli import options


@click.command("build")
@options.source
@click.option(
    "--target",
    default="cpu",
    show_default=True,
    help="Providers to choose among, with commas; auto: all that run here.",
)
@options.max_drop
@options.objective
@click.option(
    "--time-budget", type=options.DURATION, default="60s", show_default=True, help="For the search: 90s, 10m or 1h."
)
@options.cache_in_place
@options.seed
@options.overwrite
@options.as_json
def command(
    source: options.Source,
    out: Path,
    samples: Path | None,
    target: str,
    max_drop: float,
    objective: str,
    time_budget: float,
    cache_in_place: bool,
    seed: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Export, tune, verify, and pack the form that is best here and keeps its accuracy.

    SOURCE is a trained directory, a family (bert, bert:base), file.py:Class, pkg.mod:name, hf:DIR_OR_ID, m.pt2
    or m.onnx. What is tried is what `edgeai tune` tries, the most promising first, until the time is up.
    """
    from edgeai.building import build
    from edgeai.cli.console import RichProgress, print_build, print_json
    from edgeai.samples import Samples
    from edgeai.tuning import Space

    report = build(
        source.source,
        Samples.load(samples) if samples else None,
        out=out,
        **source.described,
        target=target.split(","),
        max_drop=max_drop,
        objective=objective,
        seconds=time_budget,
        space=Space(cache_in_place=cache_in_place),
        seed=seed,
        overwrite=overwrite,
        progress=RichProgress(),
    )
    if as_json:
        print_json(report.to_json())
    else:
        print_build(report)
