"""The frame of the command line: exit codes, one-line errors, help that costs nothing."""

import signal
import subprocess
import sys

import click
import pytest

from edgeai import cli
from edgeai.errors import UsageError, VerificationError


def run(monkeypatch: pytest.MonkeyPatch, error: BaseException | None, returns: object = None) -> int:
    @click.command()
    def command() -> object:
        if error is not None:
            raise error
        return returns

    monkeypatch.setattr(cli._LazyGroup, "get_command", lambda self, ctx, name: command)
    with pytest.raises(SystemExit) as stop:
        cli.main(["anything"])
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (VerificationError("they differ", hint="look"), 1, "edgeai: error: they differ (look)\n"),
        (UsageError("no such thing"), 2, "edgeai: error: no such thing\n"),
        (KeyboardInterrupt(), 130, "\nedgeai: interrupted\n"),
    ],
)
def test_what_goes_wrong_on_purpose_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    line: str,
) -> None:
    assert run(monkeypatch, error) == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", line)


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, ZeroDivisionError("oops")) == 5
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "this is a bug" in err


def test_a_package_that_a_device_does_without_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, ModuleNotFoundError("No module named 'torch'", name="torch.nn")) == 1
    line = "edgeai: error: this command needs torch, which is not installed (pip install 'edgeai[build]')\n"
    assert capsys.readouterr().err == line
    assert run(monkeypatch, ModuleNotFoundError("No module named 'ours'", name="ours")) == 5
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("returns", "code"), [(None, 0), (3, 3), (4, 4)])
def test_a_command_s_verdict_is_the_exit_code(monkeypatch: pytest.MonkeyPatch, returns: object, code: int) -> None:
    assert run(monkeypatch, None, returns) == code


def edgeai(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "edgeai", *arguments], capture_output=True, text=True, check=False)


def test_usage_errors_come_from_click_with_code_2() -> None:
    result = edgeai("nonsense")
    assert result.returncode == 2
    assert "No such command 'nonsense'" in result.stderr
    assert not result.stdout


def test_help_lists_every_command_with_its_story() -> None:
    result = edgeai("--help")
    assert result.returncode == 0
    listed = [line.split()[0] for line in result.stdout.partition("Commands:\n")[2].splitlines() if line.strip()]
    assert listed == list(cli.COMMANDS)


def test_a_reader_that_leaves_early_is_no_crash() -> None:
    command = f"{sys.executable} -m edgeai --help | true; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert result.returncode in (0, 1)
    assert not result.stderr


def test_termination_unwinds_like_an_interrupt() -> None:
    code = (
        "import click, time\nfrom edgeai import cli\n"
        "@click.command()\n"
        "def command():\n"
        "    try:\n        print('in', flush=True); time.sleep(60)\n"
        "    finally:\n        print('out', flush=True)\n"
        "cli._LazyGroup.get_command = lambda *a: command\ncli.main(['x'])"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 130
        assert process.stdout.read() == "out\n"
