"""edgeai generate"""

from __future__ import annotations

from pathlib import Path

import click

from edgeai.cli import options


@click.command("generate")
@click.argument("bundle", type=options.PATH)
@click.option("--prompt", required=True, help="Text to continue.")
@click.option("--max-new-tokens", default=64, show_default=True, type=click.IntRange(1))
@click.option("--temperature", default=0.0, show_default=True, type=click.FloatRange(0), help="0 is greedy.")
@click.option("--top-k", type=click.IntRange(1), help="Sample among the k most likely tokens.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), help="Sample within this share of probability.")
@click.option("--repetition-penalty", default=1.0, show_default=True, type=click.FloatRange(0, min_open=True),
              help="Above 1, tokens that occurred already become less likely.")  # fmt: skip
@click.option("--stop", multiple=True, help="End before this text. Repeatable.")
@click.option("--lookup", type=click.IntRange(1), help="Guess up to this many tokens from the text so far, and check "
              "them at once: the same tokens, sooner where the text repeats itself.")  # fmt: skip
@options.seed
@options.ep
def command(
    bundle: Path,
    prompt: str,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    repetition_penalty: float,
    stop: tuple[str, ...],
    lookup: int | None,
    seed: int,
    ep: str,
) -> None:
    """Continue a text, token by token, as it is made."""
    import edgeai
    from edgeai.runtime.speculation import PromptLookup
    from edgeai.runtime.tasks import text_generation

    with edgeai.load(bundle, ep=ep) as session:
        for sentence in session.notes:
            click.echo(sentence, err=True)
        pieces = text_generation(session.task).stream(
            prompt,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            stop=stop,
            lookup=PromptLookup(lookup) if lookup else None,
        )
        for piece in pieces:
            click.echo(piece, nl=False)
        click.echo()
