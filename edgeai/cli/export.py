"""edgeai export"""

from __future__ import annotations

from pathlib import Path

import click

from edgeai.cli import options


@click.command("export")
@options.source
@click.option("--opset", type=int, help="ONNX opset to write. [default: 20; 23 for decoders; an ONNX file's own]")
@click.option("--target-ort", metavar="VERSION", help="Oldest ONNX Runtime that must open the file: 1.17.")
@options.seed
@options.overwrite
@options.as_json
def command(
    source: options.Source,
    out: Path,
    samples: Path | None,
    opset: int | None,
    target_ort: str | None,
    seed: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write a PyTorch module as ONNX, proven equal on shapes and values that the trace never saw, or not at all.

    SOURCE is a trained directory, a family (bert, bert:base), file.py:Class, pkg.mod:name, hf:DIR_OR_ID, m.pt2,
    or an ONNX file, which is checked and, with --opset, converted.
    """
    from edgeai.bench.memory import peak_rss_bytes
    from edgeai.cli.console import RichProgress, print_json, print_table, to_json
    from edgeai.exporting import export, resolve
    from edgeai.samples import Samples

    artifact = export(
        resolve(source.source, **source.described, seed=seed),
        Samples.load(samples) if samples else None,
        out=out,
        opset=opset,
        target_ort=target_ort,
        seed=seed,
        overwrite=overwrite,
        progress=RichProgress(),
    )
    if as_json:
        print_json(to_json(artifact) | {"peak_memory_bytes": peak_rss_bytes()})
        return
    assert artifact.signature is not None
    rows = [("input", str(spec)) for spec in artifact.signature.inputs]
    rows += [("output", str(spec)) for spec in artifact.signature.outputs]
    rows += [(key, str(value)) for key, value in artifact.lineage[-1].options.items()]
    rows.append(("peak memory", f"{peak_rss_bytes() / 1e9:.2f} GB"))
    print_table(("", str(out)), rows)
