"""edgeai run"""

from __future__ import annotations

from pathlib import Path

import click

from edgeai.cli import options


@click.command("run")
@click.argument("model", type=options.PATH)
@click.option("--text", multiple=True, help="Text to classify. Repeatable.")
@click.option(
    "--image", multiple=True, type=options.PATH, help="Image (.npy uint8, .png, .jpg) to classify. Repeatable."
)
@click.option("--input", "inputs", type=options.PATH, help="Inputs (.npz); every output is saved to --out.")
@click.option("-o", "--out", type=options.PATH, help="Where the outputs of --input go (.npz).")
@options.ep
@options.overwrite
@options.as_json
def command(
    model: Path,
    text: tuple[str, ...],
    image: tuple[Path, ...],
    inputs: Path | None,
    out: Path | None,
    ep: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Answer with a bundle or a model: texts, images, or raw inputs."""
    import edgeai
    from edgeai.cli.console import print_json, print_table, to_json
    from edgeai.errors import UsageError
    from edgeai.runtime.tasks import TextGeneration

    if sum(map(bool, (text, image, inputs))) != 1:
        raise UsageError("say what to run on", hint="give exactly one kind of --text, --image or --input")
    if bool(inputs) != bool(out):
        raise UsageError("--input and --out belong together")
    with edgeai.load(model, ep=ep) as session:
        for sentence in session.notes:
            click.echo(sentence, err=True)
        if inputs and out:
            session.run_samples(edgeai.Samples.load(inputs)).save(out, overwrite=overwrite)
            return
        if isinstance(session.task, TextGeneration):
            raise UsageError(f"{model} continues texts", hint="edgeai generate")
        predictions = list(session.task.map(text or image))
    if as_json:
        print_json(to_json(predictions))
    else:
        print_table(("input", "label", "score"), [
            (str(item), p.label, f"{p.score:.3f}") for item, p in zip(text or image, predictions, strict=True)
        ])  # fmt: skip
