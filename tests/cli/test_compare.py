"""`edgeai bench` with its options, and `edgeai compare` over what it wrote."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeai import cli
from edgeai.bench import Report
from edgeai.errors import UsageError

Paths = Callable[[str], Path]


def edgeai(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.fixture(scope="module")
def report(exported: Paths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reports") / "a.json"
    arguments = ("bench", exported("mlp"), "--ep", "cpu", "--seconds", "0.05", "--processes", 2, "--json", path)
    assert edgeai(*arguments) == 0
    return path


def changed(report: Path, path: Path, factor: float) -> Path:
    """The same report, all its samples `factor` times as long."""
    data = json.loads(report.read_text())
    for block in data["subjects"][0]["blocks"]:
        block["samples_ns"] = [round(sample * factor) for sample in block["samples_ns"]]
    for figure in data["subjects"][0]["statistics"].values():
        figure.update({key: value * factor for key, value in figure.items() if isinstance(value, int | float)})
    path.write_text(json.dumps(data))
    return path


def test_a_page_and_a_report_in_one_run(exported: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, data = tmp_path / "r.html", tmp_path / "r.json"
    run = ("bench", exported("mlp"), "--ep", "cpu", "--batch", "1,2", "--seconds", "0.05", "--processes", 1)
    assert edgeai(*run, "--html", page, "--json", data) == 0
    out, err = capsys.readouterr()
    assert "batch=2" in out
    assert "% of limit" in out
    assert "the timing loop itself takes" in err
    assert "nodes on cpu" in err
    loaded = Report.load(data)
    assert loaded.ceilings is not None
    assert f'data-value="{loaded.subjects[0].statistics["p50"].value}"' in page.read_text(encoding="utf-8")
    assert edgeai(*run, "--html", page) == 2, "nothing is overwritten"


@pytest.mark.parametrize(
    "options",
    [
        ("--batch", "0"),
        ("--batch", "1,x"),
        ("--axis", "seq"),
        ("--scenario", "server"),
        ("--rate", "5"),
        ("--scenario", "server", "--bound", "5", "--tail", "98"),
        ("--axis", "nothing=3"),
        ("--axis", "batch=1", "--axis", "batch=2"),
        ("--tail", "90"),
        ("--scenario", "server", "--rate", "5", "--tail", "90"),
    ],
)
def test_what_makes_no_sense_is_usage(
    exported: Paths, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert edgeai("bench", exported("mlp"), *options) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_gate(report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slower = changed(report, tmp_path / "slower.json", 2.0)
    assert edgeai("compare", report, slower, "--fail-if", "p50+5%") == 3
    out, err = capsys.readouterr()
    assert out.startswith("regressed")
    assert "more than p50+5% allows" in err
    assert edgeai("compare", slower, report, "--fail-if", "p50+5%") == 0
    assert edgeai("compare", report, slower) == 0
    assert edgeai("compare", report, report, "--fail-if", "p50+1%", "--fail-if", "throughput-1%") == 0


def test_the_comparison_as_json(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert edgeai("compare", report, report, "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["verdict"] == "passed"
    assert data["changes"][0]["ratio"]["value"] == 1.0


def test_other_machines_need_force(report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(report.read_text())
    data["machine"]["cpu"] = "another CPU"
    (tmp_path / "other.json").write_text(json.dumps(data))
    assert edgeai("compare", report, tmp_path / "other.json") == UsageError.exit_code
    assert "--force compares them" in capsys.readouterr().err
    assert edgeai("compare", report, tmp_path / "other.json", "--force") == 0
    assert edgeai("compare", report, tmp_path / "none.json") == 1
    assert edgeai("compare", report, report, "--fail-if", "p99") == 2
