"""edgeai debug"""

from __future__ import annotations

from pathlib import Path

import click

from edgeai.cli import options


@click.command("debug")
@click.argument("reference", type=options.PATH)
@click.argument("candidate", type=options.PATH)
@options.samples
@click.option("--worst", type=click.IntRange(min=1), default=10, show_default=True, help="How many layers to show.")
@click.option("--picture", type=options.PATH, help="Also write an SVG of every tensor along the graph.")
@options.seed
@options.overwrite
@options.as_json
def command(
    reference: Path,
    candidate: Path,
    samples: Path | None,
    worst: int,
    picture: Path | None,
    seed: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Show where a quantized file loses the signal: the noise of every tensor, and the layers that lose most.

    Both are ONNX files, the second made from the first. 40 dB is very good, 20 dB a distance of a tenth.
    """
    from edgeai import debugging
    from edgeai.cli.console import RichProgress, print_json, print_table, to_json
    from edgeai.samples import Samples

    found = debugging.debug(
        reference, candidate, Samples.load(samples) if samples else None, seed=seed, progress=RichProgress()
    )
    if picture is not None:
        debugging.picture(found, picture, overwrite=overwrite)
    if as_json:
        print_json(to_json(found))
        return
    shown = [*found.worst(worst), *found.outputs]
    rows = [
        (tensor.name, tensor.op_type, str(tensor.shape), f"{tensor.sqnr_db:.1f} dB", f"{tensor.lost_db:.1f} dB")
        for tensor in shown
    ]
    rows.insert(len(shown) - len(found.outputs), ("outputs, as shipped", "", "", "", ""))
    print_table(("worst layers", "operator", "shape", "signal/noise", "lost here"), rows)
