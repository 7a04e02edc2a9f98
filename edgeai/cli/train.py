"""edgeai train"""

from __future__ import annotations

from pathlib import Path

import click

from edgeai.cli import options


@click.command("train")
@click.argument("family")
@options.output
@click.option("--preset", default="reference", show_default=True, help="Size of the model: tiny, reference or base.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in --out.")
@click.option("--baseline", is_flag=True, help="Also train without the pre-training stage, and report both.")
@options.seed
@options.overwrite
@options.as_json
def command(
    family: str, out: Path, preset: str, resume: bool, baseline: bool, seed: int, overwrite: bool, as_json: bool
) -> None:
    """Train a reference family briefly on real data.

    Leaves weights, tokenizer, and samples for calibration, scoring and golden vectors in --out.
    """
    from edgeai.cli.console import RichProgress, print_json, print_table, to_json
    from edgeai.exporting.sources import reference_models

    train = reference_models("train").train
    report = train(
        reference_models("").family(family),
        out,
        preset=preset,
        seed=seed,
        resume=resume,
        overwrite=overwrite,
        baseline=baseline,
        progress=RichProgress(),
    )
    if as_json:
        print_json(to_json(report))
    else:
        rows = [("preset", report.preset), (report.metric, f"{report.value:.4g}")]
        rows += [(name, f"{value:.4g}") for name, value in report.baselines.items()]
        rows += [("parameters", str(report.parameters)), ("seconds", f"{report.seconds:.1f}")]
        rows += [(f"{split} samples", str(count)) for split, count in report.samples.items()]
        rows += [("data", f"{source['package']} {source['version']}, {source['licence']}") for source in report.sources]
        print_table(("", family), rows)
