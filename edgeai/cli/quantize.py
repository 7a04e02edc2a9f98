"""edgeai quantize"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from edgeai.cli import options

if TYPE_CHECKING:
    from edgeai.tuning.automatic import AutoReport

AUTO = "auto"
_NAMED = 12  # nodes in the table
_LONGEST = 250  # characters of an option's value in the table


class _RecipeCommand(click.Command):
    """Has the options of every recipe, which are only known once the recipes are imported."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        from edgeai.cli.fields import options_of
        from edgeai.quantization import RECIPES

        return [*super().get_params(ctx), *options_of(RECIPES)]


@click.command("quantize", cls=_RecipeCommand)
@click.argument("model", type=options.PATH)
@options.output
@click.option(
    "-p",
    "--precision",
    required=True,
    help="Recipe: int8-dynamic, int8-static, int8-weight, int4-weight, fp16 or bf16; auto tries those for this CPU.",
)
@options.samples
@click.option(
    "--max-drop",
    type=options.SHARE,
    help="Leave in float what costs more of the metric than this. [default: 0.5% with auto; no search otherwise]",
)
@click.option("--metric", help="accuracy, perplexity, cosine or file.py:function. [default: by the labels]")
@click.option("--output", help="The output that the metric is taken of. [default: the first]")
@click.option("--time-budget", type=click.FloatRange(min=0), metavar="SECONDS", help="For the search.")
@click.option("--resume", type=options.PATH, help="A directory that keeps what the search finds out.")
@click.option(
    "--quantized-input",
    type=click.Choice(["refuse", "pass"]),
    default="refuse",
    show_default=True,
    help="What to do with a model that is quantized already; pass copies it, opened and run, as it is.",
)
@click.option("--force", is_flag=True, help="Keep a result that is neither smaller nor faster.")
@options.seed
@options.overwrite
@options.as_json
def command(
    model: Path,
    out: Path,
    precision: str,
    samples: Path | None,
    max_drop: float | None,
    metric: str | None,
    output: str | None,
    time_budget: float | None,
    resume: Path | None,
    quantized_input: Literal["refuse", "pass"],
    force: bool,
    seed: int,
    overwrite: bool,
    as_json: bool,
    **fields: Any,
) -> None:
    """Write a float ONNX file with integer or half-precision weights.

    What became integer is counted in the graph that ONNX Runtime really runs, and what stays in float is named; size,
    speed and error are measured against the input. With --max-drop or -p auto, layers that cost too much of the metric
    stay in float: each is tried alone, and calibration, search and score use samples of their own. Otherwise accuracy
    is judged by `edgeai verify`. A model whose opset is too old for the recipe is raised first, and that is said.

    A model of more than 2 GB is streamed, weight after weight, by int4-weight and int8-weight (but not with gptq);
    the float model is then not run, and the lineage says so.
    """
    from edgeai.cli.console import RichProgress, print_json, print_table, to_json
    from edgeai.cli.fields import construct
    from edgeai.errors import UsageError
    from edgeai.modelfile import open_artifact
    from edgeai.quantization import RECIPES
    from edgeai.samples import Samples
    from edgeai.tuning.automatic import require_kept, search
    from edgeai.tuning.measuring import quantize_measured

    given = Samples.load(samples) if samples else None
    if precision not in (AUTO, *RECIPES):
        raise UsageError(f"there is no recipe {precision!r}", hint=f"choose one of {', '.join((AUTO, *RECIPES))}")
    if precision == AUTO and any(value not in (None, ()) for value in fields.values()):
        raise UsageError("auto chooses the recipes and takes none of their options", hint="name a recipe")
    recipe = None if precision == AUTO else construct(RECIPES, precision, fields)
    if recipe is None or max_drop is not None:
        if quantized_input == "pass":
            raise UsageError("a search has nothing to find in a model that is quantized already", hint="name a recipe")
        if given is None:
            raise UsageError("a search needs samples", hint="-d samples.npz, with labels for a metric")
        report = search(
            open_artifact(model), given, out=out, metric=metric, max_drop=0.005 if max_drop is None else max_drop,
            output=output, recipes=None if recipe is None else [recipe], seconds=time_budget, resume=resume,
            force=force, overwrite=overwrite, seed=seed, progress=RichProgress(),
        )  # fmt: skip
        if as_json:
            print_json(to_json(report.rows))
        else:
            _print_search(report)
        require_kept(report)
        return
    artifact, harm = quantize_measured(
        open_artifact(model), recipe, given, out=out, quantized_input=quantized_input, force=force,
        overwrite=overwrite, progress=RichProgress(),
    )  # fmt: skip
    step = next(step for step in reversed(artifact.lineage) if step.tool == "quantize")
    if as_json:
        print_json(to_json(step) | {"measured": None if harm is None else harm.to_json()})
        return
    rows = [("size", f"{_megabytes(model):.2f} MB -> {_megabytes(out):.2f} MB")]
    if harm is not None:
        rows.append(("measured", harm.summary))
    rows.append(("stays float", _stays_float(step.options["coverage"])))
    print_table(("", str(out)), [*rows, *((key, _shown(value)) for key, value in step.options.items())])


def _print_search(report: AutoReport) -> None:
    from edgeai.cli.console import print_table

    rows = []
    for row in report.rows:
        metric = "-" if row.metric is None else f"{row.metric.reference:.4g} -> {row.metric.candidate:.4g}"
        drop = "-" if row.metric is None else f"{row.metric.drop:.2%} ({row.metric.low:.2%}..{row.metric.high:.2%})"
        ratio = "-" if row.ratio is None else "{:.2f} ({:.2f}..{:.2f})".format(*row.ratio)
        kept = f"{len(row.kept_float)} ({row.float_share:.0%})" if row.metric else "-"
        mark = "* " if row.name == report.chosen else "  "
        rows.append((mark + row.name, f"{row.size_bytes / 1e6:.2f}", metric, drop, ratio, kept, row.reason))
    print_table(("form", "MB", "metric", "drop", "ratio", "in float", "why"), rows)
    for row in report.rows:
        if row.kept_float:
            click.echo(f"{row.name} keeps in float: {', '.join(row.kept_float)}")


def _stays_float(coverage: Mapping[str, Any]) -> str:
    """The nodes that still multiply with weights in floating point, by name as far as a table goes."""
    names = coverage["float_names"]
    if not names:
        return "nothing that multiplies with weights"
    more = f" and {len(names) - _NAMED} more, shown by --json" if len(names) > _NAMED else ""
    stored = coverage["stored_integer_share"] - coverage["integer_weight_share"]
    aside = f" ({stored:.0%} of the weights are stored as integers for them)" if stored > 0 else ""
    return ", ".join(names[:_NAMED]) + more + aside


def _shown(value: object) -> str:
    """An option in a table: of what has an entry for each layer, the number."""
    text = str(value)
    if isinstance(value, dict | list | tuple) and len(text) > _LONGEST:
        return f"{len(value)} entries, shown by --json"
    return text


def _megabytes(path: Path) -> float:
    """Of the graph and of the data files that it refers to."""
    from edgeai.external import external_files

    return sum(file.stat().st_size for file in (path, *(path.parent / name for name in external_files(path)))) / 1e6
