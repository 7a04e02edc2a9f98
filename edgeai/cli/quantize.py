"""edgeai quantize"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeai.cli import options


class _RecipeCommand(click.Command):
    """Has the options of every recipe, which are only known once the recipes are imported."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        from edgeai.cli.fields import options_of
        from edgeai.quantization import RECIPES

        return [*super().get_params(ctx), *options_of(RECIPES)]


@click.command("quantize", cls=_RecipeCommand)
@click.argument("model", type=options.PATH)
@options.output
@click.option("-p", "--precision", required=True, help="Recipe: int8-dynamic or int8-static.")
@options.samples
@options.overwrite
@options.as_json
def command(
    model: Path, out: Path, precision: str, samples: Path | None, overwrite: bool, as_json: bool, **fields: Any
) -> None:
    """Write a float ONNX file with integer weights.

    What became integer is counted in the graph that ONNX Runtime really runs. Accuracy is judged by `edgeai verify`.
    """
    from edgeai.cli.console import RichProgress, print_json, print_table, to_json
    from edgeai.cli.fields import construct
    from edgeai.errors import UsageError
    from edgeai.modelfile import open_artifact
    from edgeai.quantization import RECIPES, quantize
    from edgeai.samples import Samples

    if precision not in RECIPES:
        raise UsageError(f"there is no recipe {precision!r}", hint=f"choose one of {', '.join(RECIPES)}")
    artifact = quantize(
        open_artifact(model),
        construct(RECIPES, precision, fields),
        samples=Samples.load(samples) if samples else None,
        out=out,
        overwrite=overwrite,
        progress=RichProgress(),
    )
    step = artifact.lineage[-1]
    if as_json:
        print_json(to_json(step))
    else:
        sizes = [("size", f"{model.stat().st_size / 1e6:.2f} MB -> {out.stat().st_size / 1e6:.2f} MB")]
        print_table(("", str(out)), [*sizes, *((key, str(value)) for key, value in step.options.items())])
