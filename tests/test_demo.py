import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from edgeai.bench import Workload
from edgeai.demo import COLUMNS, best_int8, demo, render_html, report_data, table
from edgeai.errors import EdgeAIError, ExistsError, UsageError
from edgeai.tuning import Space

QUICK = Workload(
    min_iterations=30, max_iterations=40, min_seconds=0, max_seconds=2, warmup_min_seconds=0,
    warmup_max_seconds=0.1, settle_seconds=0, rounds=5,
)  # fmt: skip


FEW = Space(("mha", "portable"), ("int8-dynamic", "int8-static"), settings=False, finalists=2)


class Page(HTMLParser):
    """Tags, links to elsewhere, and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += " " + data


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def made(out: Path) -> object:
    return demo(out, families=["mlp"], preset="tiny", workload=QUICK, space=FEW, seconds=None)


def test_everything_is_left_where_it_is_said(made: object, out: Path) -> None:
    assert sorted(path.name for path in out.iterdir()) == [
        "mlp.bundle", "mlp.json", "report.html", "report.json", "trained",
    ]  # fmt: skip


def test_the_table_has_a_row_for_each_family(made, out: Path) -> None:  # type: ignore[no-untyped-def]
    (row,) = table(made.builds)
    assert len(row) == len(COLUMNS)
    report = made.builds[0]
    assert row[0] == "mlp"
    assert row[2] == f"{report.row('torch').metric:.4g}"
    assert row[-1] == f"{report.chosen}, verified"


def test_the_bundle_answers_without_torch(made, out: Path) -> None:  # type: ignore[no-untyped-def]
    (answer,) = made.answers
    assert re.fullmatch(r"the first golden digit, labelled \d", answer.question)
    assert answer.answer in "0123456789"


def test_the_page_shows_the_figures_of_the_json_and_needs_no_network(made, out: Path) -> None:  # type: ignore[no-untyped-def]
    data = json.loads((out / "report.json").read_text())
    page = Page((out / "report.html").read_text())
    assert not page.links
    assert "script" not in page.tags
    for row in data["builds"][0]["rows"]:
        assert row["name"] in page.text
        assert row["reason"] in page.text
        if row["p50_ns"] is not None:
            assert f"{row['p50_ns'] / 1e6:.3f} ms" in page.text
    assert (out / "report.html").read_text() == render_html(data)


def test_text_from_a_model_is_text_on_the_page(made) -> None:  # type: ignore[no-untyped-def]
    data = report_data(made.builds, ())
    data["answers"] = [{"family": "mlp", "question": "<b>?", "answer": "<script>alert(1)</script>"}]
    page = Page(render_html(data))
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text


def test_a_second_run_is_refused_or_resumed_and_said(made, out: Path) -> None:  # type: ignore[no-untyped-def]
    before = (out / "mlp.bundle" / "manifest.json").read_bytes()
    with pytest.raises(ExistsError, match="--resume"):
        demo(out, families=["mlp"], preset="tiny", workload=QUICK)
    said: list[str] = []

    class Log:
        from edgeai.progress import SILENT

        task = SILENT.task

        def log(self, message: str) -> None:
            said.append(message)

    again = demo(out, families=["mlp"], preset="tiny", workload=QUICK, resume=True, progress=Log())
    assert said == ["mlp: built by an earlier run, kept"]
    assert again.builds == made.builds
    assert (out / "mlp.bundle" / "manifest.json").read_bytes() == before


def test_a_bundle_that_does_not_answer_is_an_error(made, out: Path) -> None:  # type: ignore[no-untyped-def]
    from edgeai.demo import _ask

    with pytest.raises(EdgeAIError, match="did not answer edgeai run .*no such bundle|no such file"):
        _ask("run", str(out / "missing.bundle"), "--input", "x.npz", "--out", "y.npz")


def test_an_unknown_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no reference family is called llama"):
        demo(tmp_path, families=["llama"])


def test_the_int8_column_prefers_what_ships(made) -> None:  # type: ignore[no-untyped-def]
    found = best_int8(made.builds[0])
    assert found.name.startswith("int8")
    if made.builds[0].chosen.startswith("int8"):
        assert found.name == made.builds[0].chosen
