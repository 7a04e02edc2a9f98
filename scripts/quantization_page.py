"""Write docs/quantization.md from benchmarks/results. A test compares; run this after any of the benchmarks in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pages import machine_line, table

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "quantization.md"
RESULTS = ROOT / "benchmarks" / "results"
DETAIL = 300  # characters of a tool's own message

Row = dict[str, Any]
Lines = Iterator[str]

HEAD = """\
# Quantization, measured

Written by `scripts/quantization_page.py` from `benchmarks/results/*.json`: no figure here is typed by hand. Intervals
are 95 % bootstrap intervals. "Time" is the median latency over the float file's, both measured in turn in processes
of their own; below 1 is faster. "Integer" is the share of the weights that ONNX Runtime multiplies as integers,
counted in the graph that it runs, not in the file."""


def render(results: Path = RESULTS) -> str:
    """The page: a section for each result that is there."""
    parts = [HEAD]
    for name, (title, about, section) in SECTIONS.items():
        path = results / f"{name}.json"
        if path.exists():
            data = json.loads(path.read_text(encoding="utf-8"))
            told = f"{about}\n\n`benchmarks/{name}.py`; {machine_line(data)}"
            parts.append("\n".join([f"## {title}", "", told, "", *section(data)]).rstrip())
    return "\n\n".join(parts) + "\n"


def _peers(data: Row) -> Lines:
    families = data["families"]
    if any(found["quick"] for found in families.values()):
        yield "**A trial run on few samples: no figure here is a result.**\n"
    methods = list(dict.fromkeys(name for found in families.values() for name in found["rows"]))
    compared = {name: found["verdict"] for name, found in families.items() if found["verdict"]}
    held = sum(verdict["not_below"] for verdict in compared.values())
    yield (
        f"edgeai's best is not below the best peer, beyond the interval, in {held} of {len(families)} families. Each "
        "side's best is picked on the samples that it is scored by, among the files that got smaller."
    )
    yield ""
    yield from table(
        ("family", "edgeai's best", "best peer", "metric of the two", "drop from the peer's to edgeai's", "not below"),
        [_compared(name, verdict) for name, verdict in compared.items()],
    )
    if alone := [name for name in families if name not in compared]:
        yield f"\nNothing to compare, as one side has no smaller file: {', '.join(alone)}."
    failures = [(method, _failures(families, method)) for method in methods]
    counted = [f"{method} {len(failed)}" for method, failed in failures if failed]
    yield f"\nFailures, of {len(families)} families: {', '.join(counted) or 'none'}."
    for name, found in families.items():
        counts = found["samples"]
        yield f"\n### {name}\n\n{counts['calibration']} samples to calibrate, {counts['score']} to score.\n"
        columns = ("method", "kB", "integer", "metric", "drop against fp32", "time", "s to quantize")
        yield from table(columns, [_method(*row) for row in found["rows"].items()])
    if counted:
        yield "\n### What the tools said when they failed\n"
        yield from (f"- {method}, {family}: {_short(why)}" for method, failed in failures for family, why in failed)
    yield "\n### Versions\n"
    yield from (
        f"- {peer}: {', '.join(f'{k} {v}' for k, v in found.items())}" for peer, found in data["versions"].items()
    )


def _failures(families: Row, method: str) -> list[tuple[str, str]]:
    rows = [(name, found["rows"].get(method)) for name, found in families.items()]
    return [(name, row["failed"]) for name, row in rows if row and row["failed"] is not None]


def _compared(name: str, verdict: Row) -> tuple[str, ...]:
    metric = verdict["metric"]
    both = f"{metric['name']} {metric['candidate']:.4g} and {metric['reference']:.4g}"
    return name, verdict["edgeai"], verdict["peer"], both, _drop(metric), "yes" if verdict["not_below"] else "**no**"


def _method(name: str, row: Row) -> tuple[str, ...]:
    if row["failed"] is not None:
        return name, "–", "–", "**failed**", "–", "–", "–"
    return (
        name, f"{row['bytes'] / 1000:.1f}", f"{row['integer_weight_share']:.0%}", f"{row['metric']['candidate']:.4g}",
        _drop(row["metric"]), _ratio(row["ratio"]), _or_dash(row["seconds"], "{:.1f}"),
    )  # fmt: skip


def _budget(data: Row) -> Lines:
    columns = ("family", "form", "kB", "metric", "drop", "time", "weights in float", "why")
    rows = []
    for name, found in data["families"].items():
        for one in found["rows"]:
            metric = one["metric"]
            form = f"**{one['name']}**" if one["name"] == found["chosen"] else one["name"]
            before_after = f"{metric['name']} {metric['reference']:.4g} → {metric['candidate']:.4g}" if metric else "–"
            rows.append((
                name, form, f"{one['size_bytes'] / 1000:.1f}", before_after, _drop(metric) if metric else "–",
                _ratio(one["ratio"]), f"{one['float_share']:.0%}" if metric else "–", _short(one["reason"]),
            ))  # fmt: skip
    yield f"The budget is {data['max_drop']:.1%} of the metric. In bold: what was kept.\n"
    yield from table(columns, rows)


def _calibration(data: Row) -> Lines:
    columns = ("tool", "observer", "samples", "s", "s a sample", "peak MB", "outcome")
    rows = []
    for row in data["rows"]:
        done = row["outcome"] == "done"
        seconds = (f"{row['seconds']:.1f}", f"{row['seconds'] / row['samples']:.2f}") if done else ("–", "–")
        peak = f"{row['peak_bytes'] / 1e6:,.0f}"
        rows.append((row["tool"], row["observer"], str(row["samples"]), *seconds, peak, row["outcome"]))
    yield from table(columns, rows)
    yield ""
    yield from (f"- {text}: {figure:.2f}" for text, figure in data["findings"].items())


def _weight_only(data: Row) -> Lines:
    yield "GPT-2 with 124 million parameters:\n"
    rows = [
        (_recipe(row), f"{row['size_bytes'] / 1e6:.1f}", _or_dash(row.get("seconds"), "{:.1f}"), _gigabytes(row))
        for row in data["gpt-2 124M"]
    ]
    yield from table(("recipe", "MB", "s", "peak GB"), rows)
    yield "\nThe trained reference `gpt`, by its perplexity; ± is the standard error:\n"
    rows = [
        (
            _recipe(row), f"{row['size_bytes'] / 1000:.0f}", f"{row['perplexity']:.3f}", _change(row["against_fp32"]),
            _change(row.get("against_rtn")), f"{row['divergence']:.5f}",
        )
        for row in data["gpt trained"]
    ]  # fmt: skip
    columns = ("recipe", "kB", "perplexity", "against fp32", "against round-to-nearest", "KL divergence")
    yield from table(columns, rows)


def _streaming(data: Row) -> Lines:
    before, after = data["source_bytes"] / 1e9, data["size_bytes"] / 1e9
    yield f"- weights: {before:.2f} GB of fp32 become {after:.2f} GB of int4 ({data['method']})"
    yield f"- peak memory: {data['peak_memory_bytes'] / 1e9:.2f} GB"
    yield f"- time: {data['seconds']:.1f} s, {data['megabytes_per_second']:.0f} MB/s"
    yield f"- largest relative error of a weight tensor: {data['weight_error']['largest']:.4f}"
    yield f"- {data['verdict']}: {data['proof']}"


def _graph_forms(data: Row) -> Lines:
    if data["quick"]:
        yield "**A trial run: no figure here is a result.**\n"
    rows = []
    for model, found in data["models"].items():
        for row in found["rows"]:
            milliseconds = _or_dash(row["p50_ns"] and row["p50_ns"] / 1e6, "{:.2f}")
            rows.append((model, row["form"], milliseconds, _ratio(row["ratio"]), f"{row['size_bytes'] / 1e6:.2f}"))
    yield from table(("model", "form", "p50 ms", "time against exported", "MB"), rows)
    refused = [(m, form, why) for m, found in data["models"].items() for form, why in found["not_made"].items()]
    if refused:
        yield "\nNot made:\n"
        yield from (f"- {model}, {form}: {_short(why)}" for model, form, why in refused)


SECTIONS: dict[str, tuple[str, str, Callable[[Row], Lines]]] = {
    "quantization_peers": (
        "Against other quantizers",
        "One float ONNX file for each reference family, the same samples to calibrate on for every tool, and the same "
        "samples, seen by none, to score each result. Every file runs in the same ONNX Runtime and settings. Each "
        "tool is used as its documentation says; a failure is counted, and what was said is below.",
        _peers,
    ),
    "budget": (
        "Within an accuracy budget",
        "`edgeai quantize -p auto --max-drop 0.5%` on every reference family. Calibration, search and final score "
        "share no sample; the drop is that of the final score.",
        _budget,
    ),
    "calibration": (
        "What calibration costs",
        "BERT-base, sequences of 128 random tokens, each measurement in a process of its own.",
        _calibration,
    ),
    "weight_only": ("Weights alone, in eight and four bits", "Every recipe and method on two decoders.", _weight_only),
    "streaming_quantization": (
        "Larger than memory",
        "A chain of MatMuls, read from and written to external data one tensor at a time.",
        _streaming,
    ),
    "graph_forms": (
        "Forms of the graph",
        "Every form of `edgeai optimize`, in float32 and with dynamic int8, on untrained models.",
        _graph_forms,
    ),
}  # fmt: skip


def _recipe(row: Row) -> str:
    options = [f"{key}={value}" for key, value in row["options"].items()]
    return " ".join([row["recipe"], *options, *(["samples"] if row.get("samples") else [])])


def _gigabytes(row: Row) -> str:
    return f"{row['peak_memory_bytes'] / 1e9:.2f}" if "peak_memory_bytes" in row else "–"


def _change(found: Row | None) -> str:
    return "–" if found is None else f"{found['change']:+.2%} ± {found['standard_error']:.2%}"


def _drop(metric: Row) -> str:
    return f"{metric['drop']:.2%} ({metric['low']:.2%} to {metric['high']:.2%})"


def _ratio(ratio: list[float] | None) -> str:
    return "–" if ratio is None else "{:.2f} ({:.2f} to {:.2f})".format(*ratio)


def _or_dash(value: Any, form: str) -> str:
    return "–" if value is None else form.format(value)


def _short(text: str) -> str:
    """One line, in which Markdown sees nothing of its own."""
    line = " ".join(text.split())
    line = line if len(line) <= DETAIL else f"{line[:DETAIL].rsplit(' ', 1)[0]} …"
    for sign in "\\*_[]<>":
        line = line.replace(sign, f"\\{sign}")
    return line + ("" if line.endswith((".", "…")) else ".")


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
