"""edgeai doctor"""

from __future__ import annotations

import click

from edgeai.cli import options


@click.command("doctor")
@options.as_json
def command(as_json: bool) -> int:
    """Say what this machine can run, why the rest does not, and the command that mends it.

    Exit code 1 if something is broken. A provider that the machine has no device for is not.
    """
    from edgeai.cli.console import print_json, print_table, to_json
    from edgeai.doctor import examine

    found = examine()
    if as_json:
        print_json(to_json(found) | {"healthy": found.healthy})
    else:
        marks = {"ok": "ok", "note": "-", "problem": "PROBLEM"}
        print_table(
            ("", "", "found", "to mend it"),
            [(marks[row.level], row.subject, row.text, row.remedy) for row in found.findings],
        )
    return 0 if found.healthy else 1
