"""Options that mean the same in every command."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
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


class _Duration(click.ParamType[float]):
    """A time in seconds: 90, 90s, 10m and 1h."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        factor = {"s": 1, "m": 60, "h": 3600}.get(value[-1:])
        try:
            seconds = float(value[:-1]) * factor if factor else float(value)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds < float("inf"):
            self.fail(f"{value!r} is not a time; write 90s, 10m or 1h", param, ctx)
        return seconds


SHARE, DURATION = _Share(), _Duration()

output = click.option("-o", "--out", type=PATH, required=True, help="Where the result goes.")
samples = click.option("-d", "--samples", type=PATH, help="Model inputs (.npz), with labels where there are any.")
overwrite = click.option("--overwrite", is_flag=True, help="Replace what is there.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
ep = click.option("--ep", default="auto", show_default=True, help="Execution provider: auto, cpu, cuda, openvino, ...")
seed = click.option("--seed", type=int, default=0, show_default=True, help="Makes random choices repeatable.")
max_drop = click.option("--max-drop", type=SHARE, default="0.5%", show_default=True, help="Metric that may be lost.")
cache_in_place = click.option(
    "--cache-in-place",
    is_flag=True,
    help="A decoder may take one text at a time, if with its cache in place it was measured to continue that faster.",
)
objective = click.option(
    "--objective",
    type=click.Choice(["latency", "throughput", "size", "memory", "cpu"]),
    default="latency",
    show_default=True,
    help="What is made as small as it can be (throughput: the mean time of a run).",
)


@dataclass(frozen=True)
class Source:
    """What to start from, as the user described it. `described` is all but the source itself."""

    source: str
    inputs: tuple[str, ...]
    example: Path | None
    dynamic: tuple[str, ...]
    init: dict[str, Any] | None
    weights: Path | None
    task: str | None

    @property
    def described(self) -> dict[str, Any]:
        """Keyword arguments of `exporting.resolve` and of `build`."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "source"}


_SOURCE = (
    click.argument("source"),
    output,
    click.option(
        "--input",
        "inputs",
        multiple=True,
        metavar="SPEC",
        help="An input of the module: x:float32[batch,3,224,224] or ids:int64[batch,seq]<30522. Repeatable.",
    ),
    click.option("--inputs", "example", type=PATH, metavar="NPZ", help="Example inputs: one array for each, by name."),
    click.option(
        "--dynamic",
        multiple=True,
        metavar="SPEC",
        help="An axis that may change: x:0=batch:1..64, x:2=height:32..256/32 for multiples of 32. Repeatable.",
    ),
    click.option("--init", metavar="JSON", help="""Arguments of the class or factory: '{"hidden": 64}'."""),
    click.option("--weights", type=PATH, help="Weights to load: .safetensors, or a plain .pt state dict."),
    samples,
    click.option(
        "--task",
        type=click.Choice(["generate", "forward"]),
        help="generate: one graph with a cache for a causal language model. [default: by the model]",
    ),
)


def source(command: Callable[..., Any]) -> Callable[..., Any]:
    """SOURCE, `out` and `samples`, and all that describes the source, which `command` gets as one `Source`."""

    @functools.wraps(command)
    def wrapped(**values: Any) -> Any:
        values["init"] = parse_init(values["init"])
        described = {field.name: values.pop(field.name) for field in dataclasses.fields(Source)}
        return command(source=Source(**described), **values)

    decorated: Callable[..., Any] = wrapped
    for option in reversed(_SOURCE):
        decorated = option(decorated)
    return decorated


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
