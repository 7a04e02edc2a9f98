"""edgeai build"""

from __future__ import annotations

from pathlib import Path

import click

from edgeai.cli import options


@click.command("build")
@click.argument("source")
@options.output
@options.inputs
@options.example
@options.dynamic
@options.init
@options.weights
@options.samples
@options.task
@click.option("--target", default="cpu", show_default=True, help="Where the bundle will run.")
@click.option("--max-drop", type=options.SHARE, default="0.5%", show_default=True, help="Metric that may be lost.")
@options.seed
@options.overwrite
@options.as_json
def command(
    source: str,
    out: Path,
    inputs: tuple[str, ...],
    example: Path | None,
    dynamic: tuple[str, ...],
    init: str | None,
    weights: Path | None,
    samples: Path | None,
    task: str | None,
    target: str,
    max_drop: float,
    seed: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Export, optimize, quantize, verify, measure, and pack the form that is best here and keeps its accuracy.

    SOURCE is a trained directory, a family (bert, bert:base), file.py:Class, pkg.mod:name, hf:DIR_OR_ID, m.pt2
    or m.onnx.
    """
    from edgeai.building import build
    from edgeai.cli.console import RichProgress, print_build, print_json
    from edgeai.samples import Samples

    report = build(
        source,
        Samples.load(samples) if samples else None,
        out=out,
        inputs=inputs,
        dynamic=dynamic,
        init=options.parse_init(init),
        weights=weights,
        example=example,
        task=task,
        target=target,
        max_drop=max_drop,
        seed=seed,
        overwrite=overwrite,
        progress=RichProgress(),
    )
    if as_json:
        print_json(report.to_json())
    else:
        print_build(report)
