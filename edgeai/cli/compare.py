"""edgeai compare"""

from __future__ import annotations

from pathlib import Path

import click

from edgeai.cli import options


@click.command("compare")
@click.argument("old", type=options.PATH)
@click.argument("new", type=options.PATH)
@click.option("--fail-if", "rules", multiple=True, metavar="RULE",
              help="What counts as regressed: p99+5%, p50+3%, mean+3%, throughput-5%. Repeatable.")  # fmt: skip
@click.option("--force", is_flag=True, help="Compare reports of different machines or workloads all the same.")
@options.as_json
@options.seed
def command(old: Path, new: Path, rules: tuple[str, ...], force: bool, as_json: bool, seed: int) -> int:
    """Compare two reports that `edgeai bench --json` wrote, on one machine, one after the other.

    Exit code 3 if a rule of --fail-if is broken for certain: the whole 95 % interval of the ratio lies beyond it.
    """
    from edgeai.bench import Report
    from edgeai.bench.compare import REGRESSED, Rule, compare
    from edgeai.bench.table import cell, interval
    from edgeai.cli.console import print_json, print_table, to_json

    found = compare(
        Report.load(old), Report.load(new), rules=[Rule.parse(text) for text in rules], force=force, seed=seed
    )
    if as_json:
        print_json({**to_json(found), "verdict": found.verdict})
    else:
        print_table(
            ("subject", "figure", "old", "new", "ratio of times", "verdict"),
            [
                (
                    change.subject,
                    change.figure if change.figure == "throughput" else f"{change.figure} ms",
                    cell(change.old, 1.0 if change.figure == "throughput" else 1e-6),
                    cell(change.new, 1.0 if change.figure == "throughput" else 1e-6),
                    interval(change.ratio) if change.ratio else "-",
                    change.word + (f" ({change.reason})" if change.reason else ""),
                )
                for change in found.changes
            ],
            title=found.verdict if rules else "",
        )
    for line in (*found.warnings, *(broken.text for broken in found.broken)):
        click.echo(line, err=True)
    return 3 if found.verdict == REGRESSED else 0
