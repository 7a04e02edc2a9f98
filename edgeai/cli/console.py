"""What a person sees: tables on stdout, progress with the time left on stderr."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from edgeai.progress import Advance


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
            self._bars.update(task, advance=n, **({"note": note} if note else {}))

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
        table.add_row(*row)
    console = Console(highlight=False)
    if not console.is_terminal or console.width < console.measure(table).maximum:
        console = Console(highlight=False, width=max(console.measure(table).maximum, 20), soft_wrap=True)
    console.print(table)


def print_json(data: Any) -> None:
    json.dump(data, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")
