"""edgeai optimize"""

from __future__ import annotations

from pathlib import Path

import click

from edgeai.cli import options


@click.command("optimize")
@click.argument("model", type=options.PATH)
@options.output
@options.samples
@options.overwrite
@options.as_json
def command(model: Path, out: Path, samples: Path | None, overwrite: bool, as_json: bool) -> None:
    """Rewrite the graph pass by pass; a pass that changes an answer is rolled back and named."""
    from edgeai.cli.console import RichProgress, print_json, print_table, to_json
    from edgeai.graph import optimize
    from edgeai.modelfile import open_artifact
    from edgeai.samples import Samples

    artifact = optimize(
        open_artifact(model),
        out=out,
        samples=Samples.load(samples) if samples else None,
        overwrite=overwrite,
        progress=RichProgress(),
    )
    step = artifact.lineage[-1]
    if as_json:
        print_json(to_json(step))
    else:
        print_table(("", str(out)), [(key, str(value)) for key, value in step.options.items()])
