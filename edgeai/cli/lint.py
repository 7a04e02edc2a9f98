"""edgeai lint"""

from __future__ import annotations

from pathlib import Path

import click

from edgeai.cli import options


@click.command("lint")
@click.argument("model", type=options.PATH)
@click.option("--target", default="cpu", show_default=True, help="cpu, cuda, tensorrt or openvino.")
@click.option("--fail-if-float", type=options.SHARE, help="Exit code 3 if more of the weights than this are not: 10%.")
@options.as_json
def command(model: Path, target: str, fail_if_float: float | None, as_json: bool) -> int:
    """Say what will run as integers on a target and what will not, and why."""
    from edgeai.cli.console import print_json, print_table, to_json
    from edgeai.linting import lint

    report = lint(model, target=target)
    if as_json:
        print_json(to_json(report) | {"integer_share": report.integer_share})
    else:
        print_table(
            ("operator", "nodes", "weights", "runs as", "because"),
            [(row.op_type, str(row.count), f"{row.weights:,}", row.runs, row.reason) for row in report.rows],
            title=f"{model} on {target}: {report.integer_share:.1%} of the weights as integers ({report.basis})",
        )
        for caution in report.cautions:
            click.echo(f"caution: {caution.count} nodes: {caution.text}")
        for note in report.notes:
            click.echo(f"note: {note}")
    if fail_if_float is None or report.float_share <= fail_if_float:
        return 0
    click.echo(f"edgeai: {report.float_share:.1%} of the weights are not multiplied as integers", err=True)
    return 3
