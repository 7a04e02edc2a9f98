"""edgeai export"""

from __future__ import annotations

from pathlib import Path

import click

from edgeai.cli import options


@click.command("export")
@click.argument("source")
@options.output
@options.inputs
@options.dynamic
@options.init
@options.weights
@options.samples
@click.option("--opset", type=int, help="ONNX opset to write. [default: 20; 23 for decoders; an ONNX file's own]")
@options.seed
@options.overwrite
@options.as_json
def command(
    source: str,
    out: Path,
    inputs: tuple[str, ...],
    dynamic: tuple[str, ...],
    init: str | None,
    weights: Path | None,
    samples: Path | None,
    opset: int | None,
    seed: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write a PyTorch module as ONNX, proven equal on shapes and values that the trace never saw, or not at all.

    SOURCE is a trained directory, a family (bert, bert:base), file.py:Class, pkg.mod:name, m.pt2, or an
    ONNX file, which is checked and, with --opset, converted.
    """
    from edgeai.cli.console import RichProgress, print_json, print_table, to_json
    from edgeai.exporting import export, resolve
    from edgeai.samples import Samples

    found = resolve(source, inputs=inputs, dynamic=dynamic, init=options.parse_init(init), weights=weights, seed=seed)
    artifact = export(
        found,
        Samples.load(samples) if samples else None,
        out=out,
        opset=opset,
        seed=seed,
        overwrite=overwrite,
        progress=RichProgress(),
    )
    if as_json:
        print_json(to_json(artifact))
        return
    assert artifact.signature is not None
    rows = [("input", str(spec)) for spec in artifact.signature.inputs]
    rows += [("output", str(spec)) for spec in artifact.signature.outputs]
    rows += [(key, str(value)) for key, value in artifact.lineage[-1].options.items()]
    print_table(("", str(out)), rows)
