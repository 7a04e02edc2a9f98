"""Options that mean the same in every command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edgeai.errors import UsageError

PATH = click.Path(path_type=Path)


class _Share(click.ParamType[float]):
    """A share of something: 0.5% and 0.005 are the same."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            share = float(value[:-1]) / 100 if value.endswith("%") else float(value)
        except ValueError:
            self.fail(f"{value!r} is not a share; write 0.5% or 0.005", param, ctx)
        if not 0 <= share <= 1:
            self.fail(f"{value} is not between 0 and 100 %", param, ctx)
        return share


SHARE = _Share()

output = click.option("-o", "--out", type=PATH, required=True, help="Where the result goes.")
samples = click.option("-d", "--samples", type=PATH, help="Model inputs (.npz), with labels where there are any.")
overwrite = click.option("--overwrite", is_flag=True, help="Replace what is there.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
ep = click.option("--ep", default="auto", show_default=True, help="Execution provider: auto, cpu, cuda or tensorrt.")
seed = click.option("--seed", type=int, default=0, show_default=True, help="Makes random choices repeatable.")
inputs = click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="SPEC",
    help="An input of the module: x:float32[batch,3,224,224] or ids:int64[batch,seq]<30522. Repeatable.",
)
example = click.option(
    "--inputs", "example", type=PATH, metavar="NPZ", help="Example inputs: one array for each, by name."
)
dynamic = click.option(
    "--dynamic",
    multiple=True,
    metavar="SPEC",
    help="An axis that may change: x:0=batch:1..64, x:2=height:32..256/32 for multiples of 32. Repeatable.",
)
task = click.option(
    "--task",
    type=click.Choice(["generate", "forward"]),
    help="generate: one graph with a cache for a causal language model. [default: by the model]",
)
init = click.option("--init", metavar="JSON", help="""Arguments of the class or factory: '{"hidden": 64}'.""")
weights = click.option("--weights", type=PATH, help="Weights to load: .safetensors, or a plain .pt state dict.")


def parse_init(text: str | None) -> dict[str, Any] | None:
    """The JSON object of --init. Raises UsageError if it is not one."""
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UsageError(f"--init is not JSON: {error}", hint="""write --init '{"hidden": 64}'""") from error
    if not isinstance(value, dict):
        raise UsageError("--init must be a JSON object", hint="""write --init '{"hidden": 64}'""")
    return value
