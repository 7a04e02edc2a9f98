import hashlib
import mmap
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from edgeai import storage
from edgeai.errors import ExistsError, StorageError

PIECE = mmap.ALLOCATIONGRANULARITY


def test_a_file_appears_whole_and_nothing_stays_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.txt"
    with storage.atomic_file(target) as temporary:
        temporary.write_text("whole")
        assert not target.exists()
        assert storage.is_partial(temporary)
    assert target.read_text() == "whole"
    assert os.listdir(target.parent) == ["a.txt"]


def test_a_failure_inside_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="stop"), storage.atomic_file(target, overwrite=True) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stop")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_existing_files_are_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    with pytest.raises(ExistsError, match="--overwrite"), storage.atomic_file(tmp_path / "a"):
        pytest.fail("the body must not run")
    with pytest.raises(ExistsError, match="already exists"), storage.atomic_dir(tmp_path / "a"):
        pytest.fail("the body must not run")


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(ExistsError), storage.atomic_file(tmp_path / "a") as temporary:
        temporary.write_text("ours")
        (tmp_path / "a").write_text("theirs")
    assert (tmp_path / "a").read_text() == "theirs"


def test_a_directory_replaces_a_directory(tmp_path: Path) -> None:
    for content in ("first", "second"):
        with storage.atomic_dir(tmp_path / "d", overwrite=True) as temporary:
            (temporary / content).write_text(content)
    assert os.listdir(tmp_path / "d") == ["second"]
    assert os.listdir(tmp_path) == ["d"]


def test_a_disk_that_refuses_is_a_storage_error_naming_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write .*file/x"):
        storage.atomic_text(tmp_path / "file" / "x", "text")


def test_a_place_that_takes_no_file_is_refused_before_any_work(tmp_path: Path) -> None:
    storage.refuse_existing(tmp_path / "not" / "there" / "yet.txt", overwrite=False)
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("nowhere")
    for place in ("file", "dangling"):
        with pytest.raises(StorageError, match=f"{place} is not a directory"):
            storage.refuse_existing(tmp_path / place / "deep" / "x", overwrite=False)


def test_a_directory_that_is_read_only_is_refused_before_any_work(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user may write anywhere")
        with pytest.raises(StorageError, match="is not writable"):
            storage.refuse_existing(tmp_path / "deep" / "x", overwrite=False)
    finally:
        tmp_path.chmod(0o700)


def test_a_file_never_replaces_a_directory(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "mine").write_text("mine")
    with pytest.raises(StorageError, match="it is a directory"):
        storage.atomic_text(tmp_path / "results", "text", overwrite=True)
    assert (tmp_path / "results" / "mine").read_text() == "mine"


def test_what_a_killed_writer_left_is_removed_by_the_next_and_a_living_one_is_left_alone(
    tmp_path: Path,
) -> None:
    target = tmp_path / "a.txt"
    writer = textwrap.dedent(
        f"""
        import sys
        from edgeai import storage
        with storage.atomic_file({str(target)!r}) as temporary:
            temporary.write_text("half")
            print("writing", flush=True)
            sys.stdin.read()
        """
    )
    command = [sys.executable, "-c", writer]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        storage.atomic_text(target, "from a neighbour", overwrite=True)
        assert any(storage.is_partial(path) for path in tmp_path.iterdir()), "the living writer's file was removed"
        process.send_signal(signal.SIGKILL)
    assert target.read_text() == "from a neighbour"
    storage.atomic_text(target, "whole", overwrite=True)
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7])
def test_sha256_of_some_pieces_is_that_of_the_whole(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_MAPPED_BYTES", PIECE)
    content = os.urandom(size)
    (tmp_path / "a").write_bytes(content)
    assert storage.sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_a_file_that_is_cut_short_while_it_is_read_has_another_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_MAPPED_BYTES", PIECE)
    path = tmp_path / "a"
    path.write_bytes(os.urandom(3 * PIECE))
    whole, real = storage.sha256(path), os.fstat

    def then_cut(number: int) -> os.stat_result:
        status = real(number)
        os.truncate(path, PIECE)
        return status

    monkeypatch.setattr(os, "fstat", then_cut)
    assert storage.sha256(path) != whole


def test_sha256_is_the_known_digest(tmp_path: Path) -> None:
    storage.atomic_text(tmp_path / "a", "abc")
    assert storage.sha256(tmp_path / "a").startswith("ba7816bf8f01cfea")


def test_cache_dir_follows_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEAI_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert storage.cache_dir() == Path("/xdg/edgeai")
    monkeypatch.setenv("EDGEAI_CACHE", "/named")
    assert storage.cache_dir() == Path("/named")
