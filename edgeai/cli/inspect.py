"""edgeai inspect"""

from __future__ import annotations

from pathlib import Path

import click

from edgeai.cli import options


@click.command("inspect")
@click.argument("path", type=options.PATH)
@options.as_json
def command(path: Path, as_json: bool) -> None:
    """Show what a model file or a bundle is: signature, lineage, operators, measured results."""
    from edgeai.cli.console import print_json, print_table, to_json
    from edgeai.inspection import inspect

    found = inspect(path)
    if as_json:
        print_json(to_json(found))
        return
    rows = [("kind", found.kind), ("size", f"{found.size_bytes / 1e6:.2f} MB")]
    if found.signature is not None:
        rows += [("input", str(spec)) for spec in found.signature.inputs]
        rows += [("output", str(spec)) for spec in found.signature.outputs]
        rows += [("axis", f"{axis.name}: {axis.minimum}..{axis.maximum}") for axis in found.signature.axes]
    rows += [("step", f"{step.tool} {dict(step.options)}") for step in found.lineage]
    rows += [("opset", f"{domain} {version}") for domain, version in found.opsets.items()]
    rows += [("operator", f"{count:4} {name}") for name, count in found.operators.items()]
    rows += [("weights", f"{size / 1e6:.2f} MB {dtype}") for dtype, size in found.weight_bytes.items()]
    if found.made_for is not None:
        only = found.made_for
        device = ", ".join(only.features or only.environment.values())
        rows.append(("made for", f"ONNX Runtime {only.onnxruntime}, {only.provider}, {device}"))
    rows += [("file", name) for name in found.manifest.get("files", ())]
    if build := found.manifest.get("results", {}).get("build"):
        rows.append(("ships", f"{build['chosen']}, {build['verdict']}, on {build['provider']}"))
        rows += [("form", f"{row['name']}: {row['reason']}") for row in build["rows"]]
    print_table(("", str(path)), rows)
