"""edgeai optimize"""

from __future__ import annotations

from pathlib import Path

import click

from edgeai.cli import options
from edgeai.errors import UsageError


@click.command("optimize")
@click.argument("model", type=options.PATH)
@options.output
@options.samples
@click.option(
    "--target", help="cpu, cuda, tensorrt, openvino or portable.  [default: the first that --form is for; else cpu]"
)
@click.option(
    "--form",
    help="What to make of it: portable, mha, separate-qkv, packed-qkv, attention3d or gqa, for OpenVINO also "
    "portable-separate-qkv; else the target's. in-place: of a decoder, with its cache written in place, for one text "
    "at a time.",
)
@click.option(
    "--target-specific",
    is_flag=True,
    help="Write it as it is for this CPU and this ONNX Runtime alone, with prepacked weights; refused elsewhere.",
)
@options.overwrite
@options.as_json
def command(
    model: Path,
    out: Path,
    samples: Path | None,
    target: str | None,
    form: str | None,
    target_specific: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Rewrite the graph pass by pass; a pass that changes an answer is rolled back and named."""
    from edgeai.cli.console import RichProgress, print_json, print_table, to_json
    from edgeai.graph import optimize, specialize
    from edgeai.modelfile import open_artifact
    from edgeai.samples import Samples

    if target_specific and (form or target not in (None, "cpu")):
        raise UsageError("--target-specific rewrites nothing", hint="give it the model that --form has made")
    given = Samples.load(samples) if samples else None
    source, progress = open_artifact(model), RichProgress()
    if target_specific:
        artifact = specialize(source, out=out, samples=given, overwrite=overwrite, progress=progress)
    else:
        artifact = optimize(
            source, out=out, form=form, target=target, samples=given, overwrite=overwrite, progress=progress
        )
    step = artifact.lineage[-1]
    if as_json:
        print_json(to_json(step))
    else:
        print_table(("", str(out)), [(key, str(value)) for key, value in step.options.items()])
