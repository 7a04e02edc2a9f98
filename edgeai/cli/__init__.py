"""The `edgeai` command: one file a command, each parses, makes one library call and prints.

Exit codes: 0 ok, 1 failed, 2 usage, 3 degraded or regressed, 4 unverified, 5 internal error (a bug), 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence

import click

from edgeai.errors import EdgeAIError, MissingDependencyError

# The order of the story, which is the order of --help.
COMMANDS = (
    "demo",
    "train",
    "export",
    "optimize",
    "quantize",
    "verify",
    "bench",
    "compare",
    "tune",
    "build",
    "run",
    "generate",
    "inspect",
    "lint",
    "debug",
    "compile",
    "doctor",
)

# The packages that a device does without, and the extra that brings each.
_EXTRAS = {
    **dict.fromkeys(("torch", "onnx", "onnx_ir", "onnxscript", "ml_dtypes", "jinja2"), "build"),
    **dict.fromkeys(("safetensors", "tokenizers", "sklearn"), "build,train"),
}


class _LazyGroup(click.Group):
    """Imports a command's file only when that command (or the list of all) is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"edgeai.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="edgeai", prog_name="edgeai")
def group() -> None:
    """Take a PyTorch module to a verified, quantized, measured ONNX bundle, and run it on the device.

    Results go to stdout, progress and warnings to stderr. Nothing is overwritten without --overwrite.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: errors that edgeai raises are one line, anything else keeps its traceback."""
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    # Termination by a supervisor unwinds like Ctrl-C, so that temporary files and child processes go too.
    signal.signal(signal.SIGTERM, lambda *_: _interrupt())
    try:
        code = group.main(arguments, prog_name="edgeai", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except EdgeAIError as error:
        click.echo(f"edgeai: error: {error}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("edgeai: interrupted", err=True)
        return 130
    except BrokenPipeError:  # the reader of our output left; nothing more can be said to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            traceback.print_exc()
            return 5
        command = f"pip install 'edgeai[{_EXTRAS[package]}]'"
        click.echo(f"edgeai: error: this command needs {package}, which is not installed ({command})", err=True)
        return MissingDependencyError.exit_code
    except Exception:
        traceback.print_exc()
        click.echo("edgeai: internal error: this is a bug, not your input; please report it", err=True)
        return 5


def _interrupt() -> None:
    raise KeyboardInterrupt
