"""edgeai compile"""

from __future__ import annotations

from pathlib import Path

import click

from edgeai.cli import options
from edgeai.errors import UsageError


@click.command("compile")
@click.argument("model", type=options.PATH)
@options.output
@click.option("--ep", required=True, help="tensorrt, tensorrt-rtx, openvino, qnn, or the path of a plug-in library.")
@click.option(
    "--option", "given", multiple=True, metavar="NAME=VALUE", help="An option of the provider, such as fp16=true."
)
@options.overwrite
@options.as_json
def command(model: Path, out: Path, ep: str, given: tuple[str, ...], overwrite: bool, as_json: bool) -> None:
    """Let an execution provider compile a model ahead, so that the device opens it without a build.

    The result runs on this kind of device and these versions only, and is refused elsewhere.
    """
    from edgeai.cli.console import print_json, print_table, to_json
    from edgeai.runtime.compiling import compile

    values = dict(_pair(text) for text in given)
    step = compile(model, out=out, ep=ep, options=values, overwrite=overwrite).lineage[-1]
    if as_json:
        print_json(to_json(step))
    else:
        print_table(("", str(out)), [(key, str(value)) for key, value in step.options.items()])


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--option {text}: expected NAME=VALUE")
    return name, value
