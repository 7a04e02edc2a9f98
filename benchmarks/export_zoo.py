"""Export every architecture of the zoo, and check each written file a second time with code of its own.

    python benchmarks/export_zoo.py [--only NAME...] [--resume] [--json PATH]

One process an architecture, with a time limit. The results so far are on disk after each, so it can be interrupted
and taken up again with --resume. Leaves `benchmarks/results/export_zoo.json`; `scripts/export_page.py` writes
docs/export.md from it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from zoo.apart import EndedError, apart
from zoo.catalog import everything
from zoo.examination import Row, blank, examine
from zoo.subject import Architecture

from edgeai.cli.console import RichProgress, print_table
from edgeai.machine import machine, usable_cores
from edgeai.storage import atomic_text

RESULTS = Path(__file__).parent / "results" / "export_zoo.json"
COLUMNS = ("architecture", "style", "parameters", "exporter", "verdict", "error", "feeds", "axes", "re-checked", "s")


def main() -> None:
    arguments, zoo = _arguments(), everything()
    wanted = [one for one in zoo if not arguments.only or one.name in arguments.only]
    if unknown := set(arguments.only) - {one.name for one in zoo}:
        raise SystemExit(f"no architecture {', '.join(sorted(unknown))}; there are {', '.join(o.name for o in zoo)}")
    rows = _rows(arguments.json) if arguments.resume or arguments.only else {}
    done = {name for name, row in rows.items() if arguments.resume and _good(row)}
    left = [one for one in wanted if one.name not in done]
    progress = RichProgress()
    with progress.task("zoo", len(left)) as advance, ThreadPoolExecutor(arguments.jobs) as pool:
        futures = {pool.submit(_examined, one, arguments.timeout): one for one in left}
        try:
            for future in as_completed(futures):
                row = future.result()
                rows[row["name"]] = row
                _save(arguments.json, rows)
                advance(note=f"{row['name']}: {row['verdict']}")
                if not _good(row):
                    progress.log(f"{row['name']}: {_trouble(row)}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    shown = [rows[one.name] for one in wanted if one.name in rows]
    print_table(COLUMNS, [table_row(row) for row in shown])
    good = sum(map(_good, shown))
    print(
        f"{good} of {len(shown)} verified and re-checked; {sum(row['seconds'] or 0 for row in shown):.0f} s of exports"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Export every architecture of the zoo.")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these alone; other rows are kept")
    parser.add_argument("--resume", action="store_true", help="keep the rows that are good, do the others")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the results go")
    parser.add_argument("--jobs", type=int, default=usable_cores(), help="architectures at a time")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one architecture")
    return parser.parse_args()


def _examined(architecture: Architecture, timeout: float) -> Row:
    try:
        row: Row = apart(examine, architecture.name, timeout=timeout)
    except EndedError as error:
        return blank(architecture, str(error))
    return row


def _rows(path: Path) -> dict[str, Row]:
    return {row["name"]: row for row in json.loads(path.read_text())["rows"]} if path.exists() else {}


def _save(path: Path, rows: dict[str, Row]) -> None:
    ordered = [rows[one.name] for one in everything() if one.name in rows]
    told = dataclasses.asdict(machine())
    told["versions"] |= {"transformers": version("transformers")}
    atomic_text(path, json.dumps({"machine": told, "rows": ordered}, indent=1) + "\n", overwrite=True)


def _good(row: Row) -> bool:
    return row["verdict"] == "verified" and bool(row["rechecked"]["right"])


def _trouble(row: Row) -> str:
    return str(row["reason"] or row["rechecked"]["finding"])


def table_row(row: Row) -> tuple[str, ...]:
    checked = row["rechecked"]
    return (
        row["name"],
        row["style"],
        "-" if row["parameters"] is None else f"{row['parameters']:,}",
        row["exporter"] or "-",
        row["verdict"],
        "-" if row["error"] is None else f"{row['error']:.1e}",
        str(row["feeds"] or "-"),
        ", ".join(f"{name} {low}..{high}" for name, (low, high) in row["axes"].items()) or "-",
        "-" if checked is None else f"{checked['shapes']} shapes, {checked['error']:.1e}",
        "-" if row["seconds"] is None else f"{row['seconds']:.1f}",
    )


if __name__ == "__main__":
    main()
