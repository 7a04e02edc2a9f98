"""edgeai demo"""

from __future__ import annotations

from pathlib import Path

import click

from edgeai.cli import options


@click.command("demo")
@click.option("-o", "--out", type=options.PATH, default="demo", show_default=True, help="Where everything goes.")
@click.option("--family", "families", multiple=True, help="Only this family. Repeatable.")
@click.option("--preset", default="reference", show_default=True, help="Size of the models: tiny or reference.")
@click.option(
    "--time-budget", type=options.DURATION, default="30s", show_default=True, help="For the search in each family."
)
@click.option("--resume", is_flag=True, help="Keep the families that an earlier run finished.")
@options.seed
@options.overwrite
@options.as_json
def command(
    out: Path,
    families: tuple[str, ...],
    preset: str,
    time_budget: float,
    resume: bool,
    seed: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Train six reference models on real data and take each the whole way to a bundle that answers."""
    from edgeai.cli.console import RichProgress, print_json, print_table
    from edgeai.demo import COLUMNS, demo, report_data, table

    found = demo(
        out,
        families=families,
        preset=preset,
        seconds=time_budget,
        seed=seed,
        resume=resume,
        overwrite=overwrite,
        progress=RichProgress(),
    )
    if as_json:
        print_json(report_data(found.builds, found.answers))
        return
    print_table(COLUMNS, table(found.builds))
    click.echo()
    for answer in found.answers:
        click.echo(f"{answer.family}: {answer.question} -> {answer.answer}")
    click.echo(f"\nreport: {found.report_html}")
