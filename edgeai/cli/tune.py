"""edgeai tune"""

from __future__ import annotations

from pathlib import Path

import click

from edgeai.cli import options


@click.command("tune")
@click.argument("model", type=options.PATH)
@options.output
@options.samples
@options.max_drop
@options.objective
@click.option(
    "--time-budget", type=options.DURATION, default="10m", show_default=True, help="For the search: 90s, 10m or 1h."
)
@click.option("--metric", help="accuracy, perplexity, cosine or file.py:function. [default: by the labels]")
@click.option("--output", help="The output that the metric is taken of. [default: the first]")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Rows of samples in one run.")
@click.option("--ep", default="auto", show_default=True, help="Providers to try, with commas; auto: all that run here.")
@click.option("--form", "forms", multiple=True, help="Only this form of the graph (see optimize --form). Repeatable.")
@click.option("--recipe", "recipes", multiple=True, help="Only this recipe (see quantize -p). Repeatable.")
@click.option("--no-settings", is_flag=True, help="Leave fusions, threads, spinning, memory and precision as they are.")
@click.option("--resume", type=options.PATH, help="A directory that keeps what the search finds out.")
@options.cache_in_place
@options.seed
@options.overwrite
@options.as_json
def command(
    model: Path,
    out: Path,
    samples: Path | None,
    max_drop: float,
    objective: str,
    time_budget: float,
    metric: str | None,
    output: str | None,
    batch: int,
    ep: str,
    forms: tuple[str, ...],
    recipes: tuple[str, ...],
    no_settings: bool,
    resume: Path | None,
    cache_in_place: bool,
    seed: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Search for the best form of a float ONNX file on this machine, and pack it as a bundle with its settings.

    Graph forms x recipes x providers are halved by interleaved measurements in separate processes; of the best whose
    accuracy holds, switched-off fusions, threads, spinning, arena, bfloat16 and huge pages are tried. The plain float
    session is measured to the end and kept unless something is shown to be better. Choice and frontier stand in the
    bundle's manifest.
    """
    from edgeai.cli.console import RichProgress, print_json, print_table
    from edgeai.samples import Samples
    from edgeai.tuning import Space, tune

    report = tune(
        model,
        Samples.load(samples) if samples else None,
        out=out,
        max_drop=max_drop,
        objective=objective,
        metric=metric,
        output=output,
        batch=batch,
        ep=ep.split(","),
        space=Space(forms=forms, recipes=recipes or None, settings=not no_settings, cache_in_place=cache_in_place),
        seconds=time_budget,
        resume=resume,
        seed=seed,
        overwrite=overwrite,
        progress=RichProgress(),
    )
    if as_json:
        print_json(report.to_json())
        return
    rows = []
    for trial in report.trials:
        figures, judged = trial.figures, trial.judged
        ratio = figures.latency if figures else None
        mark = "* " if trial.name == report.chosen.name else "+ " if trial.name in report.frontier else "  "
        rows.append((
            mark + trial.name,
            "-" if judged is None else f"{judged.loss:.2%}",
            "-" if figures is None or figures.size_bytes is None else f"{figures.size_bytes / 1e6:.2f}",
            "-" if figures is None or figures.p50_ns is None else f"{figures.p50_ns / 1e6:.3f} ms",
            "-" if ratio is None else "{:.2f} ({:.2f}..{:.2f})".format(*ratio),
            trial.reason,
        ))  # fmt: skip
    title = f"{report.bundle}: {report.chosen.name}, after {report.seconds:.0f} s (*: kept, +: on the frontier)"
    print_table(("form", "loss", "MB", "p50", "ratio", "why"), rows, title=title)
