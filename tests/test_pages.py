"""The pages that are written of the results: what stands in docs is what was measured, and failures are told."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module


def test_the_page_is_the_results(script: Callable[[str], ModuleType]) -> None:
    text = (ROOT / "docs" / "quantization.md").read_text(encoding="utf-8")
    assert script("quantization_page").render() == text, "run: python scripts/quantization_page.py"


def test_the_pages_of_speed_and_their_plots_are_the_results(script: Callable[[str], ModuleType]) -> None:
    found = script("speed_page").pages()
    docs = {*(ROOT / "docs").glob("speed*.md"), *(ROOT / "docs").glob("speed*/*")}
    assert set(found) == docs
    for place, text in found.items():
        assert place.read_text(encoding="utf-8") == text, "run: python scripts/speed_page.py"
        if place.suffix == ".svg":
            assert ElementTree.fromstring(text).tag.endswith("svg")
            assert f"]({place.parent.name}/{place.name})" in found[place.parent.with_suffix(".md")]


def test_the_page_of_speed_tells_of_failures_trials_and_tuning(
    tmp_path: Path, script: Callable[[str], ModuleType]
) -> None:
    page = script("speed_page")
    assert page.pages(tmp_path) == {page.PAGE: page.HEAD.format(files="*.json", others="") + "\n"}
    machine = {"cpu": "a processor", "cores": 2, "features": ["avx2"], "versions": {"onnxruntime": "1.31.1"}}
    row = {
        "failed": None, "p50_ns": 2_000_000, "interval_ns": [1_900_000, 2_100_000], "bytes": 1000, "cosine": 0.95,
        "cpu_ns": 4_000_000, "first_answer_seconds": 0.5, "round_medians_ns": [2, 2, 4],
    }  # fmt: skip
    close = row | {"p50_ns": 1_000_000, "cosine": 0.96, "round_medians_ns": [1, 1, 1]}
    goal = {"edgeai": None, "against": "b & c", "ratio": None, "rounds": 0, "factor": 1.5, "met": "no"}
    contest = {"model": "m:base", "about": "one row", "quick": True, "goals": [goal]}
    contest["rows"] = {"b & c": row, "edgeai x": {"failed": "it fell over"}, "edgeai y": close}
    unknown = contest | {"rows": {"b & c": row | {"cosine": None}}}
    rounded = contest | {
        "goals": [goal | {"edgeai": "edgeai y"}],
        "rows": contest["rows"] | {"edgeai z": row | {"cosine": 1.0}},
    }
    (tmp_path / "peers.json").write_text(
        json.dumps({"machine": machine, "versions": {}, "contests": {"m": contest, "u": unknown, "r": rounded}})
    )
    found = {"p50_ns": 1_000_000, "seconds": 300.0}
    swept = found | {"measured": 40, "points": 50, "best": "int8, 1 thread"}
    tuning = {"machine": machine, "family": "bert", "tuned": found | {"chosen": "int8"}, "swept": swept}
    tuning |= {"fp32_p50_ns": 3_000_000, "tuned_over_swept": [1.01, 0.99, 1.02], "share_of_the_time": 0.1}
    (tmp_path / "tuning.json").write_text(json.dumps(tuning))
    pages = page.pages(tmp_path)
    for line in (
        "**A trial run of small models: no figure here is a result.**",
        "| m | – | b & c | – | 0 | 1.50 | **no** |",
        "m: of edgeai's forms with as many bits as b & c none came as close to the float model; of all forms that did, "
        "edgeai y is 2.00 times as fast.",
        "r: edgeai y has a cosine of 0.960, b & c 0.950. Of edgeai's forms with 0.99 the fastest is edgeai z: "
        "1.00 times as fast as b & c.",
        "| b & c | 2.000 (1.900..2.100) | 0.00 | 0.95000 | 4.000 | 0.50 |",
        "| b & c | 2.000 (1.900..2.100) | 0.00 | – | 4.000 | 0.50 |",
        "| edgeai x | failed: it fell over | – | – | – | – |",
        "| sweep of 40 of 50 points | int8, 1 thread | 300 | 1.000 |",
        "Tuned over swept: 1.010 (0.990..1.020); share of the time 0.10.",
    ):
        assert line in pages[page.PAGE].splitlines()
    plot = ElementTree.fromstring(pages[page.Place(tmp_path).plots / "m.svg"])
    assert [text.text for text in plot.iter() if text.tag.endswith("text")] == [
        "m: median of one row, ms",
        "edgeai y",
        "1",
        "b & c",
        "2",
    ]


def test_another_machine_has_a_page_of_its_own(tmp_path: Path, script: Callable[[str], ModuleType]) -> None:
    page = script("speed_page")
    goal = {"edgeai": None, "against": "b", "ratio": None, "rounds": 0, "factor": 1.5, "met": "no"}
    row = {"failed": "it fell over"} | {"cosine": None}
    fast = {
        "failed": None, "p50_ns": 1, "interval_ns": [1, 1], "bytes": 1, "cosine": 1.0, "cpu_ns": 1,
        "first_answer_seconds": 1, "round_medians_ns": [1],
    }  # fmt: skip
    for folder, cpu in ((tmp_path, "here"), (tmp_path / "there", "elsewhere")):
        folder.mkdir(exist_ok=True)
        machine = {"cpu": cpu, "cores": 2, "features": [], "versions": {"onnxruntime": "1"}}
        contest = {"model": "m", "about": "one", "quick": False, "goals": [goal], "rows": {"b": row, "edgeai": fast}}
        (folder / "peers.json").write_text(json.dumps({"machine": machine, "versions": {}, "contests": {"m": contest}}))
    pages = page.pages(tmp_path)
    other = page.PAGE.with_name("speed-there.md")
    assert set(pages) == {page.PAGE, ROOT / "docs/speed/m.svg", other, ROOT / "docs/speed-there/m.svg"}
    assert "(speed-there.md)" in pages[page.PAGE] and "(speed.md)" in pages[other]
    for text, cpu, plots in ((pages[page.PAGE], "here", "speed"), (pages[other], "elsewhere", "speed-there")):
        assert f"{cpu}, 2 cores" in text and f"]({plots}/m.svg)" in text


def test_a_section_stands_for_each_result_that_is_there(tmp_path: Path, script: Callable[[str], ModuleType]) -> None:
    page = script("quantization_page")
    assert "##" not in page.render(tmp_path)
    metric = {"name": "accuracy", "reference": 0.9, "candidate": 0.8, "drop": 0.1, "low": 0.05, "high": 0.2}
    row = {"failed": None, "seconds": 1.0, "bytes": 1000, "integer_weight_share": 1.0, "metric": metric}
    family = {
        "quick": False, "samples": {"calibration": 5, "score": 7},
        "rows": {
            "fp32": row | {"ratio": None, "seconds": None}, "ours": row | {"ratio": [0.5, 0.4, 0.6]},
            "theirs": {"failed": "Error: [a|b] fell over", "seconds": None},
        },
        "verdict": {"edgeai": "ours", "peer": "theirs", "metric": metric, "not_below": False},
    }  # fmt: skip
    data = {
        "machine": {"cpu": "a CPU", "cores": 2, "features": ["avx2"], "versions": {"onnxruntime": "1"}},
        "versions": {"them": {"python": "3"}}, "families": {"mlp": family},
    }  # fmt: skip
    (tmp_path / "quantization_peers.json").write_text(json.dumps(data))
    text = page.render(tmp_path)
    assert "in 0 of 1 families" in text
    assert "| mlp | ours | theirs | accuracy 0.8 and 0.9 | 10.00% (5.00% to 20.00%) | **no** |" in text
    assert "| ours | 1.0 | 100% | 0.8 | 10.00% (5.00% to 20.00%) | 0.50 (0.40 to 0.60) | 1.0 |" in text
    assert "Failures, of 1 families: theirs 1." in text
    assert "- theirs, mlp: Error: \\[a|b\\] fell over." in text
    assert text.count("\n## ") == 1
