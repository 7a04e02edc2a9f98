"""edgeai verify"""

from __future__ import annotations

from pathlib import Path

import click

from edgeai.cli import options


@click.command("verify")
@click.argument("reference")
@click.argument("candidate", required=False)
@options.samples
@click.option("--lossy", is_flag=True, help="Judge a quantized candidate: by the metric, or else by distance.")
@click.option("--max-drop", type=options.SHARE, help="How much of the metric may be lost. [default: 0.5%]")
@click.option("--metric", help="Metric for labelled samples: accuracy or perplexity.")
@click.option("--no-speed", is_flag=True, help="Do not measure whether a bundle is as fast as where it was made.")
@options.ep
@options.as_json
def command(
    reference: str,
    candidate: str | None,
    samples: Path | None,
    lossy: bool,
    max_drop: float | None,
    metric: str | None,
    no_speed: bool,
    ep: str,
    as_json: bool,
) -> int:
    """Compare CANDIDATE with REFERENCE, or check a bundle on the machine that it runs on.

    One argument is a bundle: every byte, its golden vectors, its provider and its speed are checked. Slower than the
    band around what was recorded when it was made is degraded; on another kind of machine speed is not compared.
    Two are a reference (module, model or bundle) and a model or bundle that should agree with it.
    Exit code: 0 verified, 1 failed, 3 degraded, 4 unverified.
    """
    from edgeai.cli.console import RichProgress, print_json, print_table, to_json
    from edgeai.errors import UsageError

    if candidate is None:
        if samples or lossy or max_drop is not None or metric:
            raise UsageError("a bundle brings its own samples and tolerance", hint="these options compare two models")
        from edgeai.verifying import verify_bundle

        proof = verify_bundle(reference, ep=ep, speed=not no_speed, progress=RichProgress())
        print_json(to_json(proof.to_json())) if as_json else click.echo(proof.summary)
        return proof.exit_code

    if no_speed:
        raise UsageError("--no-speed is for a bundle alone", hint="two models are compared by their answers")
    if max_drop is not None and not lossy:
        raise UsageError("--max-drop is for a quantized candidate", hint="add --lossy")
    from edgeai.samples import Samples
    from edgeai.verifying import verify

    agreement = verify(
        reference,
        candidate,
        Samples.load(samples) if samples else None,
        lossy=lossy,
        max_drop=0.005 if max_drop is None else max_drop,
        metric=metric,
        ep=ep,
        progress=RichProgress(),
    )
    if as_json:
        print_json(to_json(agreement))
    else:
        click.echo(agreement.summary)
        if agreement.findings:
            print_table(("", "finding"), [(finding.severity, finding.text) for finding in agreement.findings])
    return agreement.exit_code
