"""Write docs/speed.md and its plots from benchmarks/results. A test compares; run this after `make bench`.

Figures of another machine stand in a folder of benchmarks/results, and have a page of their own: docs/speed-FOLDER.md.
"""

from __future__ import annotations

import html
import json
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pages import machine_line, table

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "speed.md"
RESULTS = ROOT / "benchmarks" / "results"
OURS, OTHERS, INK = "#2f7ed8", "#a3a9b1", "#7d8590"  # seen on white as on black
ROW, LABEL, BAR, FIGURE = 22, 290, 330, 80  # pixels of a plot
CLOSE = 0.99  # cosine to the float model
DETAIL = 160  # characters of a tool's own message

Row = dict[str, Any]
Lines = Iterator[str]

HEAD = """\
# Speed, measured

Written by `scripts/speed_page.py` from `benchmarks/results/{files}`: no figure here is typed by hand. Intervals are
95 % bootstrap intervals where nothing else is said. `make bench` holds the contests with other tools again; each other
section names the command that measures it.{others}"""


@dataclass(frozen=True)
class Place:
    """One machine's results, and the page that is made of them."""

    results: Path
    page: Path = PAGE

    @property
    def plots(self) -> Path:
        return self.page.with_suffix("")

    def result(self, name: str) -> Row | None:
        """What `name`.json says; None if it is not there."""
        path = self.results / f"{name}.json"
        found: Row | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        return found


def pages(results: Path = RESULTS) -> dict[Path, str]:
    """The pages and their plots, by their places: a section for each result that is there."""
    folders = sorted(path.parent for path in results.glob("*/peers.json"))
    others = [Place(folder, PAGE.with_stem(f"{PAGE.stem}-{folder.name}")) for folder in folders]
    links = "".join(f"\nOn another machine: [{one.results.name}]({one.page.name})." for one in others)
    found = _page(Place(results), HEAD.format(files="*.json", others=links))
    back = f"\nThe other page: [{PAGE.stem}]({PAGE.name})."
    for one in others:
        found |= _page(one, HEAD.format(files=f"{one.results.name}/*.json", others=back))
    return found


def _page(place: Place, head: str) -> dict[Path, str]:
    found: dict[Path, str] = {}
    parts = [head]
    for name, (title, about, section) in SECTIONS.items():
        if data := place.result(name):
            parts.append("\n".join([f"## {title}\n\n{about} {machine_line(data)}\n", *section(data, place)]).rstrip())
            if name == "peers":
                contests = data["contests"].items()
                found |= {place.plots / f"{contest}.svg": plot(contest, held) for contest, held in contests}
    return {place.page: "\n\n".join(parts) + "\n"} | found


def _peers(data: Row, place: Place) -> Lines:
    contests = data["contests"]
    if any(held["quick"] for held in contests.values()):
        yield "**A trial run of small models: no figure here is a result.**\n"
    goals = [(name, goal) for name, held in contests.items() for goal in held["goals"]]
    columns = ("model", "edgeai's fastest", "is as fast as", "times (95 %)", "rounds", "goal", "met")
    yield from table(columns, [_goal(name, goal) for name, goal in goals])
    for name, goal in goals:
        rows = contests[name]["rows"]
        if goal["edgeai"] is None:
            yield from _of_any_precision(name, goal["against"], rows)
        else:
            yield from _closer(name, goal, rows)
    limits = place.result("speed_limits")
    looked_at = limits["contests"] if limits else {}
    for name, held in contests.items():
        yield f"\n### {name}\n\n`{held['model']}`, {held['about']}; batch 1.\n"
        yield f"![Median latencies]({place.plots.name}/{name}.svg)\n"
        yield from table(
            ("", "p50 ms (95 %)", "MB", "cosine to float", "CPU ms", "first answer s"),
            [_runner(*row) for row in held["rows"].items()],
        )
        if name in looked_at:
            yield ""
            yield from _limits(looked_at[name])
    yield "\n### Versions\n"
    yield from (
        f"- {peer}: {', '.join(f'{k} {v}' for k, v in found.items())}" for peer, found in data["versions"].items()
    )


def _of_any_precision(contest: str, against: str, rows: Row) -> Lines:
    """Where no form of the precision that the goal names was close enough: the fastest of all that were."""
    least = rows[against].get("cosine")
    if least is None:  # it failed, or there was no float model's answer
        return
    if found := _fastest(rows, against, min(least, CLOSE)):
        yield (
            f"\n{contest}: of edgeai's forms with as many bits as {against} none came as close to the float model; of "
            f"all forms that did, {found[0]} is {found[1]:.2f} times as fast."
        )


def _closer(contest: str, goal: Row, rows: Row) -> Lines:
    """Where a form is only as close as a peer that is not close itself: the fastest that is."""
    against, told = goal["against"], rows[goal["edgeai"]]["cosine"]
    if told < CLOSE and (found := _fastest(rows, against, CLOSE)):
        yield (
            f"\n{contest}: {goal['edgeai']} has a cosine of {told:.3f}, {against} {rows[against]['cosine']:.3f}. "
            f"Of edgeai's forms with {CLOSE} the fastest is {found[0]}: {found[1]:.2f} times as fast as {against}."
        )


def _fastest(rows: Row, against: str, least: float) -> tuple[str, float] | None:
    """edgeai's fastest form with at least this cosine, and how many times as fast it was in the table's rounds."""
    close = {
        name: row for name, row in rows.items()
        if name.startswith("edgeai") and row["failed"] is None and row["cosine"] >= least
    }  # fmt: skip
    if not close:
        return None
    best = min(close, key=lambda name: close[name]["p50_ns"])
    pairs = zip(rows[against]["round_medians_ns"], close[best]["round_medians_ns"], strict=False)
    return best, statistics.median(other / ours for other, ours in pairs)


def _goal(contest: str, goal: Row) -> tuple[str, ...]:
    ratio = "–" if goal["ratio"] is None else "{:.2f} ({:.2f}..{:.2f})".format(*goal["ratio"])
    met = goal["met"] if goal["met"] == "yes" else f"**{goal['met']}**"
    return contest, goal["edgeai"] or "–", goal["against"], ratio, str(goal["rounds"]), f"{goal['factor']:.2f}", met


def _runner(name: str, row: Row) -> tuple[str, ...]:
    if row["failed"] is not None:
        return name, f"failed: {row['failed'][:DETAIL]}", "–", "–", "–", "–"
    low, high = row["interval_ns"]
    p50 = f"{row['p50_ns'] / 1e6:.3f} ({low / 1e6:.3f}..{high / 1e6:.3f})"
    cosine = "–" if row["cosine"] is None else f"{row['cosine']:.5f}"
    first = f"{row['first_answer_seconds']:.2f}"
    return name, p50, f"{row['bytes'] / 1e6:.2f}", cosine, f"{row['cpu_ns'] / 1e6:.3f}", first


def _limits(found: Row) -> Lines:
    """How far from the ceilings, and where the time goes."""
    rates = ", ".join(f"{kind} {rate / 1e9:,.0f}" for kind, rate in found["ceilings"]["operations"].items())
    memory, cache = (found["ceilings"][name] / 1e9 for name in ("memory_bytes", "cache_bytes"))
    yield (
        f"The ceilings, measured beside: {rates} billion operations a second; {memory:.0f} GB/s from the memory, "
        f"{cache:.0f} GB/s from the cache.\n"
    )
    columns = (
        "form",
        "fastest round, ms (slowest)",
        "the ceilings allow",
        "of the limit",
        "bound by",
        "where the time goes (of its limit)",
    )
    yield from table(columns, [_form(*row) for row in found["forms"].items()])


def _form(name: str, row: Row) -> tuple[str, ...]:
    kinds = [
        f"{kind['kind']} {kind['time_ns'] / row['profiled_ns']:.0%} ({kind['limit_ns'] / max(kind['time_ns'], 1):.0%})"
        for kind in row["kinds"][:4]
    ]
    p50, slowest, limit = (f"{row[key] / 1e6:.3f}" for key in ("p50_ns", "slowest_ns", "limit_ns"))
    percent = f"{row['percent_of_limit']:.0f} %"
    return name, f"{p50} ({slowest})", limit, percent, row["bound"], ", ".join(kinds)


def _planted(data: Row, _: Place) -> Lines:
    words = {"bench": "`edgeai bench A B`, interleaved", "compare": f"`edgeai compare`, rule `{data['rule']}`, apart"}
    rows = [
        (words[judge], *(f"{counts[share]} of {data['repeats']}" for share in ("0%", "10%")))
        for judge, counts in data["wrong"].items()
    ]
    yield from table(("judge", "wrong with nothing planted", "wrong with 10 % planted"), rows)


def _tuning(data: Row, _: Place) -> Lines:
    tuned, swept = data["tuned"], data["swept"]
    rows = [
        ("`edgeai tune`", tuned["chosen"], f"{tuned['seconds']:.0f}", f"{tuned['p50_ns'] / 1e6:.3f}"),
        (
            f"sweep of {swept['measured']} of {swept['points']} points", swept["best"], f"{swept['seconds']:.0f}",
            f"{swept['p50_ns'] / 1e6:.3f}",
        ),
        ("float, as exported", "fp32", "–", f"{data['fp32_p50_ns'] / 1e6:.3f}"),
    ]  # fmt: skip
    yield from table((data["family"], "chose", "s", "p50 ms"), rows)
    ratio = "{:.3f} ({:.3f}..{:.3f})".format(*data["tuned_over_swept"])
    yield f"\nTuned over swept: {ratio}; share of the time {data['share_of_the_time']:.2f}."


def _overhead(data: Row, _: Place) -> Lines:
    words = {
        "run": "`Session.run`, over `InferenceSession.run`",
        "run_bound": "`Session.run_bound`, over the same",
        "load_adds_ms": "`edgeai.load` of a checked bundle: ms more than creating a session",
        "threads": "`Session.run` of small convolutions on all cores, over `InferenceSession.run`",
        "hashing_share": "`edgeai.load` with checking every byte: share of the time more",
    }
    rows = [(words[name], f"{value:g}", f"{data['limits'][name]:g}") for name, value in data["found"].items()]
    yield from table(("", "found", "at most"), rows)
    yield ""
    rows = [
        (
            f"{row['gap_ms']:g}",
            *(
                f"{row[who]['median_us']:.0f} µs, {row[who]['cores']:.2f} cores"
                for who in ("InferenceSession", "Session")
            ),
        )
        for row in data["threads"]
    ]
    yield from table(("small convolutions on all cores, ms between runs", "`InferenceSession`", "`Session`"), rows)


def _batching(data: Row, _: Place) -> Lines:
    rows = [
        (f"{kind}, {who}", f"{row['per_second']:,.0f}", f"{row['p50_ms']:g}", f"{row['p99_ms']:g}", _gain(found, who))
        for kind, found in data["texts"].items()
        for who, row in found["clients"].items()
    ]
    yield from table(
        ("texts and clients", "answers/s", "p50 ms", "p99 ms", "times one after the other (least..most)"), rows
    )
    crowd, left = data["overload"], data["cancellations"]
    yield (
        f"\nAt {crowd['asked_per_second']:,.0f} requests a second, ten times too many: {crowd['refused']:,} of "
        f"{crowd['sent']:,} refused (p99 {crowd['refusal']['p99_ms']:g} ms), {crowd['expired']:,} of the "
        f"{crowd['accepted']:,} accepted too late. {left['cancelled']} cancellations left {left['arrays_kept']} arrays."
    )


def _gain(found: Row, who: str) -> str:
    gains = found["gains"].get(who)
    return f"{statistics.median(gains):.2f} ({min(gains):.2f}..{max(gains):.2f})" if gains else "1"


SECTIONS: Mapping[str, tuple[str, str, Any]] = {
    "peers": (
        "Against other tools",
        "They ran in turn, block by block, each in a process of its own. Weights are random, so beside each latency "
        "stands the least cosine to the float model's answers: speed must not be bought with nonsense. "
        f"A goal is for edgeai's fastest form that is as close as the other, or has {CLOSE}. It is judged in a final, "
        "after the rounds of the tables, with nobody in it but who is in a goal. "
        "llama.cpp, and rows with `in place`, have made the cache that they go on with themselves; the others get the "
        "float model's, so in gpt-decode their cosine leaves out what their own answer to the prompt would have cost. "
        "`benchmarks/speed_peers.py`, and `speed_limits.py` for what the machine's ceilings allow;",
        _peers,
    ),
    "tuning": (
        "Tuning against an exhaustive sweep",
        "Every file, and every combination of its settings, measured whole. `benchmarks/tuning.py`;",
        _tuning,
    ),
    "planted_regression": (
        "A slowdown that was planted",
        "A known engine against itself, and against itself with 10 % more work. `benchmarks/planted_regression.py`;",
        _planted,
    ),
    "overhead": (
        "What a session costs",
        "On a model of one node, on small convolutions that all cores share, and opening a bundle of 90 MB. "
        "`benchmarks/overhead.py`;",
        _overhead,
    ),
    "batching": (
        "Many clients",
        "The reference `bert`, 32 at a time, threads or tasks. `benchmarks/batching.py`;",
        _batching,
    ),
}


def plot(contest: str, held: Row) -> str:
    """Median latencies as bars, the fastest first."""
    rows = sorted(
        ((row["p50_ns"] / 1e6, name) for name, row in held["rows"].items() if row["failed"] is None), key=lambda r: r[0]
    )
    longest, height = rows[-1][0], ROW * len(rows) + 30
    bars = []
    for i, (ms, name) in enumerate(rows):
        y, width = 26 + ROW * i, max(1.0, BAR * ms / longest)
        colour = OURS if name.startswith("edgeai") else OTHERS
        bars += [
            f'<text x="{LABEL - 8}" y="{y + 13}" text-anchor="end">{html.escape(name)}</text>',
            f'<rect x="{LABEL}" y="{y + 2}" width="{width:.1f}" height="{ROW - 7}" rx="2" fill="{colour}"/>',
            f'<text x="{LABEL + width + 6:.1f}" y="{y + 13}">{ms:.3g}</text>',
        ]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LABEL + BAR + FIGURE}" height="{height}" role="img" '
        f'font-family="sans-serif" font-size="12" fill="{INK}">',
        f'<text x="{LABEL}" y="14">{html.escape(contest)}: median of {html.escape(held["about"])}, ms</text>',
        *bars,
        "</svg>\n",
    ])  # fmt: skip


if __name__ == "__main__":
    for path, written in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(written, encoding="utf-8")
