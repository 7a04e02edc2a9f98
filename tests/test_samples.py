import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeai.errors import DataError
from edgeai.samples import Samples


def rows(n: int = 5) -> Samples:
    return Samples.from_rows({"x": np.arange(n * 2.0).reshape(n, 2), "id": np.arange(n)}, np.arange(n) % 3)


def ragged() -> Samples:
    return Samples.from_feeds([{"x": np.ones(i), "s": np.array(i)} for i in (2, 0, 3)], np.array([1, 0, 1]))


@pytest.mark.parametrize("make", [rows, ragged])
def test_both_forms_survive_the_file(make: object, tmp_path: Path) -> None:
    samples = make()  # type: ignore[operator]
    samples.save(tmp_path / "s.npz")
    loaded = Samples.load(tmp_path / "s.npz")
    assert os.listdir(tmp_path) == ["s.npz"]
    assert len(loaded) == len(samples)
    assert set(loaded.names) == set(samples.names)
    np.testing.assert_array_equal(loaded.labels, samples.labels)
    for got, want in zip(loaded.feeds(), samples.feeds(), strict=True):
        for name in want:
            np.testing.assert_array_equal(got[name], want[name])
    assert loaded.digests() == samples.digests()


def test_rows_come_in_batches_with_a_smaller_last_one() -> None:
    assert [len(feed["x"]) for feed in rows(5).feeds(batch=2)] == [2, 2, 1]


def test_feeds_come_as_they_are_whatever_the_batch() -> None:
    assert [feed["x"].shape for feed in ragged().feeds(batch=2)] == [(2,), (0,), (3,)]


@pytest.mark.parametrize("make", [rows, ragged])
def test_take_keeps_labels_beside_their_samples(make: object) -> None:
    samples = make()  # type: ignore[operator]
    taken = samples.take([2, 0])
    assert list(taken.labels) == [samples.labels[2], samples.labels[0]]
    assert taken.digests() == [samples.digests()[2], samples.digests()[0]]


def test_overlap_is_refused_by_content() -> None:
    rows(5).take(slice(0, 2)).refuse_overlap(rows(5).take(slice(2, 5)), "calibration and scoring")
    with pytest.raises(DataError, match="calibration and scoring: 1 samples stand in both sets"):
        rows(5).take([0, 1]).refuse_overlap(rows(5).take([1, 2]), "calibration and scoring")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Samples.from_rows({}), "at least 1"),
        (lambda: Samples.from_rows({"x": np.zeros((0, 2))}), "at least 1"),
        (lambda: Samples.from_rows({"x": np.zeros(2), "y": np.zeros(3)}), "same number of rows"),
        (lambda: Samples.from_rows({"x": np.zeros(2)}, np.zeros(3)), "same number of rows"),
        (lambda: Samples.from_rows({"x": np.array([{}, 1], object)}), "dtype object"),
        (lambda: Samples.from_feeds([]), "at least one feed"),
        (lambda: Samples.from_feeds([{"x": np.zeros(1)}, {"y": np.zeros(1)}]), "same input names"),
        (lambda: Samples.from_feeds([{"x": np.zeros(1)}], np.zeros(2)), "1 feeds but 2 labels"),
    ],
)
def test_malformed_samples_are_refused(make: object, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        make()  # type: ignore[operator]


def write(path: Path, **arrays: np.ndarray) -> None:
    np.savez(path, **arrays)


def test_files_that_are_no_samples_are_named(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    with pytest.raises(DataError, match=r"s\.npz: no such file"):
        Samples.load(path)
    one_array = io.BytesIO()
    np.save(one_array, np.zeros(2))
    for content in (b"", b"text", b"PK\x03\x04 not really", pickle.dumps({}), one_array.getvalue()):
        path.write_bytes(content)
        with pytest.raises(
            DataError, match=r"s\.npz: not an \.npz of samples \(it is no zip archive; numpy\.savez writes"
        ):
            Samples.load(path)
    write(path, **{"x/0": np.zeros(1), "x/2": np.zeros(1)})
    with pytest.raises(DataError, match="are mixed"):
        Samples.load(path)
    write(path, **{"x/0": np.zeros(1), "y": np.zeros(1)})
    with pytest.raises(DataError, match="are mixed"):
        Samples.load(path)
    write(path, x=np.zeros(2), y=np.zeros(3))
    with pytest.raises(DataError, match=r"s\.npz: .*same number of rows"):
        Samples.load(path)
    np.savez(path, x=np.array([{}], object))  # a pickle inside
    with pytest.raises(DataError, match="not an .npz"):
        Samples.load(path)


def test_an_input_may_be_called_like_an_argument_of_numpy(tmp_path: Path) -> None:
    Samples.from_rows({"file": np.zeros((2, 1)), "allow_pickle": np.ones((2, 1))}).save(tmp_path / "s.npz")
    assert set(Samples.load(tmp_path / "s.npz").names) == {"file", "allow_pickle"}


def test_a_header_that_claims_a_huge_array_is_refused(tmp_path: Path) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,), }"
    member = b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little") + header + b"\n"
    with zipfile.ZipFile(tmp_path / "s.npz", "w") as archive:
        archive.writestr("x.npy", member)
    with pytest.raises(DataError, match="not an .npz"):
        Samples.load(tmp_path / "s.npz")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    rows().save(tmp_path / "s.npz")
    whole = (tmp_path / "s.npz").read_bytes()
    for length in range(0, len(whole), 37):
        (tmp_path / "s.npz").write_bytes(whole[:length])
        with pytest.raises(DataError):
            Samples.load(tmp_path / "s.npz")


@given(st.integers(1, 30), st.integers(1, 9))
def test_batches_partition_the_rows(n: int, batch: int) -> None:
    whole = np.concatenate([feed["x"] for feed in rows(n).feeds(batch)])
    np.testing.assert_array_equal(whole, rows(n).rows["x"])
