"""Write the tables of docs/export.md from benchmarks/results. A test compares; run this after either benchmark."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "export.md"
RESULTS = ROOT / "benchmarks" / "results"
TOOLS = ("torch.onnx", "optimum", "edgeai")
DETAIL = 300  # characters of a tool's own message

Row = dict[str, Any]

# Shown where the row is not verified: what stands behind the one line that edgeai says.
WHY = {
    "centernet": (
        "It keeps the points that equal the maximum around them. Where loud inputs saturate the sigmoid, neighbours "
        "tie to the last bit in one runtime and not in the other, and a point appears or vanishes whole."
    ),
    "nerf": "It composites along a ray with `cumprod`, which ONNX has no operator for.",
    "style_transfer": (
        "Instance norm divides nearly constant channels by their tiny spread, so that rounding grows with every "
        "layer; beyond the limit it is not called rounding."
    ),
}


def render(page: str) -> str:
    """The page with the tables of the newest results in it."""
    page = _replaced(page, "export_zoo", list(_zoo(_read("export_zoo"))))
    return _replaced(page, "export_comparison", list(_comparison(_read("export_comparison"))))


def _read(name: str) -> Row:
    data: Row = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return data


def _replaced(page: str, name: str, lines: list[str]) -> str:
    begin, end = f"<!-- results: benchmarks/results/{name}.json -->", f"<!-- end of {name} -->"
    before, _, rest = page.partition(begin)
    return "\n".join([before + begin, "", *lines, "", end]) + rest.partition(end)[2]


def _zoo(data: Row) -> Iterator[str]:
    rows = data["rows"]
    verified = [row for row in rows if row["verdict"] == "verified"]
    right = [row for row in verified if row["rechecked"]["right"]]
    feeds = sum(row["rechecked"]["feeds"] for row in verified)
    yield (
        f"{len(verified)} of {len(rows)} architectures are verified ({len(verified) / len(rows):.1%}). The re-check "
        f"ran {feeds} fresh feeds through their files; {len(right)} of {len(verified)} came out right."
    )
    yield ""
    columns = ("architecture", "style", "parameters", "exporter", "opset", "verdict", "error", "feeds", "proven axes")
    yield from _table((*columns, "re-checked", "s", "kB"), [_zoo_row(row) for row in rows])
    yield ""
    yield _machine(data)
    if fallen := [row for row in verified if row["fallback"]]:
        yield "\nWritten by way of TorchScript, because torch.export said:\n"
        yield from (f"- {row['name']}: {_short(row['fallback'])}" for row in fallen)
    if failed := [row for row in rows if row["verdict"] != "verified"]:
        yield "\nNot verified, so nothing is written:\n"
        yield from (
            f"- **{row['name']}**: {' '.join(filter(None, (_short(row['reason']), _why(row))))}" for row in failed
        )
    if wrong := [row for row in verified if not row["rechecked"]["right"]]:
        yield "\n**Verified, and wrong by the re-check:**\n"
        yield from (f"- {row['name']}: {row['rechecked']['finding']}" for row in wrong)


def _zoo_row(row: Row) -> tuple[str, ...]:
    checked = row["rechecked"]
    axes = ", ".join(f"{name} {low}..{high}" for name, (low, high) in row["axes"].items())
    return (
        row["name"], row["style"], _or_dash(row["parameters"], "{:,}"), row["exporter"] or "–",
        _or_dash(row["opset"], "{}"), row["verdict"], _or_dash(row["error"], "{:.1e}"), _or_dash(row["feeds"], "{}"),
        axes or "–", "–" if checked is None else _checked(checked), _or_dash(row["seconds"], "{:.1f}"),
        _or_dash(row["file_bytes"] and row["file_bytes"] / 1000, "{:.0f}"),
    )  # fmt: skip


def _checked(found: Row) -> str:
    return f"{found['shapes']} shapes, {found['error']:.1e}" if found["right"] else f"**{found['wrong']}**"


def _comparison(data: Row) -> Iterator[str]:
    rows = data["rows"]
    for tool in TOOLS:
        outcomes = [row[tool]["outcome"] for row in rows if row[tool]["outcome"] not in ("cannot take it", "not run")]
        written = [outcome for outcome in outcomes if outcome != "not written"]
        right = written.count("right")
        padding = sum("padding" in outcome for outcome in written)
        said = f"{len(written)} of {len(outcomes)} modules written: {right} right, {len(written) - right} wrong"
        said += f" ({padding} of them at padding alone)" if padding else ""
        yield f"- {tool}: {said if outcomes else 'not run'}"
    yield ""
    yield from _table(("module", "what it is", *TOOLS), [_compared(row) for row in rows])
    yield "\nIn detail:\n"
    for row in rows:
        for tool in TOOLS:
            cell = row[tool]
            if cell["outcome"] not in ("right", "cannot take it", "not run"):
                yield f"- {row['name']}, {tool}, {cell['outcome']}: {_short(cell['detail'])}"
    yield ""
    yield _machine(data)
    if data["optimum"]:
        yield "optimum's environment: " + ", ".join(f"{name} {found}" for name, found in data["optimum"].items()) + "."


def _compared(row: Row) -> tuple[str, ...]:
    outcomes = [row[tool]["outcome"] for tool in TOOLS]
    fair = ("right", "not written", "cannot take it", "not run")
    return (row["name"], row["what"], *(said if said in fair else f"**{said}**" for said in outcomes))


def _machine(data: Row) -> str:
    machine, versions = data["machine"], data["machine"]["versions"]
    runtime = versions.get("onnxruntime-gpu") or versions["onnxruntime"]
    tools = f"torch {versions['torch']}, transformers {versions['transformers']}, ONNX Runtime {runtime}"
    return f"{machine['cpu']}, {machine['cores']} cores; {tools}."


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    for row in (columns, ("---",) * len(columns), *rows):
        yield f"| {' | '.join(cell.replace('|', '∣') for cell in row)} |"


def _or_dash(value: Any, form: str) -> str:
    return "–" if value is None else form.format(value)


def _why(row: Row) -> str:
    return WHY.get(row["name"], "")


def _short(text: str) -> str:
    """One line, in which Markdown sees nothing of its own."""
    line = " ".join(text.split())
    line = line if len(line) <= DETAIL else f"{line[:DETAIL].rsplit(' ', 1)[0]} …"
    for sign in "\\*_[]<>":
        line = line.replace(sign, f"\\{sign}")
    return line + ("" if line.endswith((".", "…")) else ".")


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
