"""What a person sees: tables on stdout, progress with the time left on stderr."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from edgeai.progress import Advance

if TYPE_CHECKING:
    from edgeai.building import BuildReport


class RichProgress:
    """The `Progress` of the command line. On a stderr that is no terminal only the log lines appear."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )

    @contextlib.contextmanager
    def task(self, label: str, total: int) -> Iterator[Advance]:
        self._bars.start()
        task = self._bars.add_task(label, total=total, note="")

        def advance(n: int = 1, *, note: str = "") -> None:
            self._bars.update(task, advance=n)
            if note:
                self._bars.update(task, note=note)

        try:
            yield advance
        finally:
            self._bars.remove_task(task)
            if not self._bars.tasks:
                self._bars.stop()

    def log(self, message: str) -> None:
        self._console.print(message, markup=False)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
    """A table as wide as it needs to be: a pipe gets every column whole."""
    table = Table(title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))  # not markup: shapes are written in brackets
    needed = Console(width=100_000).measure(table).maximum
    console = Console(highlight=False)
    if console.width < needed:
        console = Console(highlight=False, width=needed, soft_wrap=True)
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        sys.stdout.write(line.rstrip() + "\n")


def to_json(value: Any) -> Any:
    """Dataclasses, paths and tuples as plain JSON data."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def print_json(data: Any) -> None:
    json.dump(data, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def print_build(report: BuildReport) -> None:
    """Every form that was considered, and why it ships or does not."""
    print_table(
        ("form", report.metric or "metric", "MB", "p50", "ratio", "verdict", "why"),
        [
            (
                ("* " if row.name == report.chosen else "  ") + row.name,
                "-" if row.metric is None else f"{row.metric:.4g}",
                "-" if row.size_bytes is None else f"{row.size_bytes / 1e6:.2f}",
                "-" if row.p50_ns is None else f"{row.p50_ns / 1e6:.3f} ms",
                "-" if row.ratio is None else "{:.2f} ({:.2f}..{:.2f})".format(*row.ratio),
                row.verdict,
                row.reason,
            )
            for row in report.rows
        ],
        title=f"{report.bundle}: {report.chosen} on {report.provider}, {report.verdict}",
    )
