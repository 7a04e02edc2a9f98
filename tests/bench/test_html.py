"""The page as a browser sees it: where Chromium is installed, it is asked; elsewhere only the text is checked."""

import dataclasses
import html
import json
import math
import shutil
import subprocess
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_reports import report_of, result

from edgeai.bench.accuracy import Accuracy
from edgeai.bench.capacity import Capacity, Trial
from edgeai.bench.energy import Energy
from edgeai.bench.html import save_html, to_html
from edgeai.bench.limits import Ceilings, NodeCost, roofline
from edgeai.bench.loop import Block
from edgeai.bench.report import Report, SubjectResult
from edgeai.bench.subject import Ran
from edgeai.errors import ExistsError

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium here (apt install chromium)")
CEILINGS = Ceilings({"float32": 9e10, "int8": 1.8e11}, 1.7e10, 5e10, 1 << 25, 2)


def subject(name: str, median_ns: float, *, seed: int) -> SubjectResult:
    generator = np.random.default_rng(seed)
    drawn = (median_ns * generator.lognormal(0, 0.2, (10, 70))).astype(int).tolist()
    nodes = tuple(
        NodeCost(f"node_{i}", "MatMul", "cpu", 9_000 * (i + 1), 10**6 * i, 70_000, 5_000, "float32") for i in range(12)
    )
    return dataclasses.replace(
        result(name, []),
        blocks=tuple(Block(tuple(block), 10**6, energy_uj=5_000) for block in drawn),
        ran=Ran(("cuda", "cpu"), {"cuda": 10, "cpu": 2}, ("tensorrt does not run here",)),
        energy=Energy(None, "RAPL"),
        accuracy=Accuracy("fp32", 8, 0.0123, 0.99987, 0.75),
        capacity=Capacity(5_000_000, 99, 400.0, 420.0, (Trial(500.0, False, (9_000_000,)), Trial(400.0, True, (1, 2)))),
        roofline=roofline(nodes, CEILINGS, latency_ns=median_ns),
    )


@pytest.fixture(scope="module")
def report() -> Report:
    made = report_of(subject("fp32", 2e6, seed=1), subject("models/<b>int8</b> & more", 1.1e6, seed=2))
    return dataclasses.replace(made, ceilings=CEILINGS, overhead_ns=93)


class Figures(HTMLParser):
    """Every cell that shows a figure: its place in the JSON, the attribute's value, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str | None, str]] = []
        self._open: tuple[str, str | None] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if "data-figure" in named:
            self._open = (str(named["data-figure"]), named.get("data-value"))

    def handle_data(self, data: str) -> None:
        if self._open:
            self.found.append((*self._open, data.strip()))
            self._open = None


def at(data: Any, path: str) -> Any:
    for key in path.split("."):
        if data is None:
            return None
        data = data[int(key)] if isinstance(data, list) else data[key]
    return data


def check_figures(page: str, report: Report) -> None:
    data = json.loads(report.to_json())
    figures = Figures(page).found
    assert len(figures) > 100
    for path, value, text in figures:
        expected = at(data, path)
        if expected is None:
            assert (value, text) == (None, "-"), path
        else:
            assert value is not None and float(value) == expected, path
            shown = float(text)
            scales = (1.0, 1e3, 1e-6, 1 / 2**20)  # units of the page: as it is, ms of s, ms of ns or millions, MiB
            assert any(math.isclose(shown, expected * scale, rel_tol=1e-2, abs_tol=1e-12) for scale in scales), path


def test_the_page_says_what_the_json_says(report: Report) -> None:
    check_figures(to_html(report), report)


def test_it_needs_nothing_else_and_runs_nothing(report: Report) -> None:
    page = to_html(report)
    assert "<script" not in page
    assert "://" not in page
    assert "src=" not in page
    assert "<link" not in page
    assert "default-src 'none'" in page
    assert "<b>int8" not in page
    assert html.escape("models/<b>int8</b> & more") in page


def test_everything_has_its_place(report: Report) -> None:
    page = to_html(report)
    for words in ("Latency distribution", "Frontier", "Phases", "Placement", "Accuracy", "Highest rate", "Roofline"):
        assert f"<h2>{words}" in page
    for words in (
        "cuda 10 of 12 nodes",
        "tensorrt does not run here",
        "a CPU",
        "Short run:",
        "0.09 us a run",
        "node_11",
    ):
        assert words in page
    assert "node_1<" not in page, "ten nodes, the costliest"


def test_a_report_with_little_in_it_has_a_page() -> None:
    few = report_of(result("one", [10] * 10))
    none = report_of(result("one", [10] * 10), result("two", [], blocks=0))
    assert "Not asked for" in to_html(few)
    assert "<h2>Frontier" not in to_html(few)
    assert "two" in to_html(none)
    assert "Latency distribution" not in to_html(report_of(result("none", [], blocks=0)))


def test_it_is_written_whole_and_not_over_another(report: Report, tmp_path: Path) -> None:
    save_html(report, tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text(encoding="utf-8").rstrip().endswith("</html>")
    with pytest.raises(ExistsError):
        save_html(report, tmp_path / "r.html")


def browse(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
        "--enable-logging=stderr", f"--user-data-dir={page.parent / 'profile'}", *options, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def console(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def pixels(path: Path) -> tuple[tuple[int, ...], int]:
    """The colour of the first pixel, and how many different bytes the picture's rows have."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    packed, at = b"", 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IDAT":
            packed += data[at + 8 : at + 8 + length]
        at += 12 + length
    rows = zlib.decompress(packed)
    return tuple(rows[1:4]), len(set(rows))  # whatever the first row's filter, its first pixel is itself


@pytest.fixture(scope="module")
def page(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    save_html(report, path)
    return path


@needs_browser
def test_a_browser_shows_the_figures_without_an_error(page: Path, report: Report) -> None:
    done = browse(page, "--dump-dom")
    check_figures(done.stdout, report)
    assert console(done) == []


@needs_browser
def test_the_console_is_really_watched(tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text("<!doctype html><script>nothing.there()</script>")
    assert any("nothing is not defined" in line for line in console(browse(tmp_path / "bad.html", "--dump-dom")))


@needs_browser
@pytest.mark.parametrize(("mode", "background"), [([], (255, 255, 255)), (["--force-dark-mode"], (0x14, 0x18, 0x1F))])
def test_it_is_drawn_in_light_and_in_dark(page: Path, mode: list[str], background: tuple[int, ...]) -> None:
    picture = page.with_name(f"picture{len(mode)}.png")
    done = browse(page, f"--screenshot={picture}", "--window-size=900,2400", *mode)
    first, variety = pixels(picture)
    assert first == background
    assert variety > 60, "a blank page has a handful"
    assert console(done) == []


@needs_browser
def test_a_phone_need_not_be_scrolled_sideways(page: Path) -> None:
    frame = page.with_name("phone.html")
    inner = html.escape(page.read_text(encoding="utf-8"), quote=True)
    frame.write_text(
        f'<!doctype html><iframe width="360" height="700" srcdoc="{inner}"></iframe><p id="width"></p><script>'
        "onload = () => { const page = document.querySelector('iframe').contentDocument.documentElement;"
        "document.getElementById('width').textContent = 'width ' + page.scrollWidth; }</script>",
        encoding="utf-8",
    )
    assert '<p id="width">width 360</p>' in browse(frame, "--dump-dom").stdout
