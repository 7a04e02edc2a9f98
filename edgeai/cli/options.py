"""Options that mean the same in every command."""

from __future__ import annotations

from pathlib import Path

import click

PATH = click.Path(path_type=Path)

output = click.option("-o", "--out", type=PATH, required=True, help="Where the result goes.")
samples = click.option("-d", "--samples", type=PATH, help="Model inputs (.npz), with labels where there are any.")
overwrite = click.option("--overwrite", is_flag=True, help="Replace what is there.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
ep = click.option("--ep", default="auto", show_default=True, help="Execution provider: auto, cpu, cuda, tensorrt.")
seed = click.option("--seed", type=int, default=0, show_default=True, help="Makes random choices repeatable.")
inputs = click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="SPEC",
    help="An input of the module, e.g. x:float32[batch,3,224,224] or ids:int64[batch,seq]<30522. Repeatable.",
)
