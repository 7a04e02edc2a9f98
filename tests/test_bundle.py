"""No byte of a bundle changes unseen, and nothing is opened before all are checked."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from edgeai import bundle as bundle_module
from edgeai.artifact import Artifact, Step
from edgeai.bundle import Golden, is_bundle, open_bundle, pack
from edgeai.errors import (
    DataError,
    EdgeAIError,
    ExistsError,
    IntegrityError,
    ModelFormatError,
    ResourceLimitError,
    UnsafePathError,
    UsageError,
)
from edgeai.manifest import Manifest
from edgeai.runtime import load
from edgeai.samples import Samples
from edgeai.spec import Axis, Signature, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("x", "float32", ("batch", 3)),), (TensorSpec("y", "float32", ("batch", 3)),), (Axis("batch", 1, 4),)
)
TEXT = "d (float[batch,3] x) => (float[batch,3] y) <float[3] w = {2,2,2}> { y = Mul(x, w) }"


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    """y = 2 x, with its weights in a file of their own."""
    directory = tmp_path / "source"
    directory.mkdir()
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {TEXT}')
    tensor = model.graph.initializer[0]
    tensor.raw_data = onnx.numpy_helper.to_array(tensor).tobytes()
    tensor.ClearField("float_data")
    path = directory / "y.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="y.data", size_threshold=0)
    return Artifact(path, (Step("test"),), SIGNATURE)


@pytest.fixture
def golden() -> Golden:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    return Golden(Samples.from_rows({"x": x}), Samples.from_rows({"y": 2 * x}), 1e-4)


@pytest.fixture(params=["b.bundle", "b.zip"])
def packed(request: pytest.FixtureRequest, tmp_path: Path, artifact: Artifact, golden: Golden) -> Path:
    """A complete bundle, as a directory and as a zip."""
    (tmp_path / "labels.txt").write_text("a\nb\n")
    pack(
        artifact,
        tmp_path / request.param,
        golden=golden,
        task={"task": "classification"},
        extras={"labels.txt": tmp_path / "labels.txt"},
        settings={"threads": 1},
        results={"p50_ns": 5},
        proven_on={"provider": "cpu"},
    ).close()
    return tmp_path / request.param


def test_what_was_packed_comes_back(packed: Path, artifact: Artifact, golden: Golden) -> None:
    with open_bundle(packed) as bundle:
        assert bundle.signature == SIGNATURE
        assert bundle.lineage == artifact.lineage
        assert bundle.task == {"task": "classification"}
        assert bundle.file("labels.txt").read_text() == "a\nb\n"
        assert bundle.model_path.read_bytes() == artifact.path.read_bytes()
        files = {"model.onnx", "y.data", "labels.txt", "golden.npz", "expected.npz"}
        assert bundle.manifest["files"].keys() == files
        assert bundle.size_bytes == sum((bundle.directory / name).stat().st_size for name in files)
        assert {key: bundle.manifest[key] for key in ("settings", "results", "proven_on")} == {
            "settings": {"threads": 1}, "results": {"p50_ns": 5}, "proven_on": {"provider": "cpu"},
        }  # fmt: skip
        assert "numpy" in bundle.manifest["versions"]
        found = bundle.golden()
        assert found is not None
        assert found.tolerance == golden.tolerance
        for (x, y), (ours_x, ours_y) in zip(found.pairs(), golden.pairs(), strict=True):
            np.testing.assert_array_equal(x["x"], ours_x["x"])
            np.testing.assert_array_equal(y["y"], ours_y["y"])
        with pytest.raises(IntegrityError, match=r"no\.txt is not in the bundle"):
            bundle.file("no.txt")


def test_the_manifest_is_what_is_on_the_disk(packed: Path) -> None:
    with open_bundle(packed) as bundle:
        content = (bundle.directory / "manifest.json").read_bytes()
        assert json.loads(content) == json.loads(json.dumps(bundle.manifest))
        digest = hashlib.sha256(content).hexdigest()
        assert (bundle.directory / "manifest.sha256").read_text() == f"{digest}  manifest.json\n"


def test_the_packed_model_runs_with_its_external_weights(packed: Path) -> None:
    with load(packed) as session:
        assert session.run({"x": np.ones((1, 3), np.float32)})["y"].tolist() == [[2, 2, 2]]


def test_a_zip_is_unpacked_for_its_owner_only_and_removed(packed: Path) -> None:
    bundle = open_bundle(packed)
    if packed.suffix == ".zip":
        assert stat.S_IMODE(bundle.directory.stat().st_mode) == 0o700
        bundle.close()
        bundle.close()
        assert not bundle.directory.exists()
    else:
        bundle.close()
        assert packed.exists()


def test_an_abandoned_bundle_is_removed_with_it(packed: Path) -> None:
    directory = open_bundle(packed).directory
    assert directory.exists() == (packed.suffix != ".zip")


@pytest.fixture
def never_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: pytest.fail("ONNX Runtime opened it"))


@pytest.mark.usefixtures("never_opened")
def test_one_flipped_byte_anywhere_is_refused(packed: Path) -> None:
    files = sorted(packed.iterdir()) if packed.is_dir() else [packed]
    positions = random.Random(7)
    for file in files:
        content = file.read_bytes()
        chosen = positions.sample(range(len(content)), min(len(content), 60))
        for at in {0, len(content) - 1, *chosen}:
            changed = bytearray(content)
            changed[at] ^= 1 << positions.randrange(8)
            file.write_bytes(changed)
            with pytest.raises(IntegrityError) as refusal:
                load(packed)
            assert "\n" not in str(refusal.value)
            assert packed.name in str(refusal.value)
            if packed.is_dir() and file.name != "manifest.sha256":
                assert file.name in str(refusal.value)
        file.write_bytes(content)
    open_bundle(packed).close()


@pytest.mark.usefixtures("never_opened")
def test_a_truncated_or_longer_file_is_refused(packed: Path) -> None:
    for file in sorted(packed.iterdir()) if packed.is_dir() else [packed]:
        content = file.read_bytes()
        for size in {0, 1, len(content) // 2, len(content) - 1}:
            file.write_bytes(content[:size])
            with pytest.raises(IntegrityError):
                load(packed)
        file.write_bytes(content + b"\0")
        with pytest.raises(IntegrityError):
            load(packed)
        file.write_bytes(content)


@pytest.fixture
def directory(tmp_path: Path, artifact: Artifact, golden: Golden) -> Path:
    """A bundle as a directory."""
    return pack(artifact, tmp_path / "d.bundle", golden=golden).path


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        (lambda d: (d / "y.data").unlink(), IntegrityError, r"y\.data is missing"),
        (lambda d: (d / "manifest.json").unlink(), IntegrityError, r"not a bundle, manifest\.json is missing"),
        (lambda d: (d / "manifest.sha256").unlink(), IntegrityError, r"not a bundle, manifest\.sha256 is missing"),
        (lambda d: (d / "extra").touch(), IntegrityError, "extra is not in the manifest"),
        (lambda d: (d / "folder").mkdir(), IntegrityError, "folder is not a plain file"),
        (lambda d: os.mkfifo(d / "pipe"), IntegrityError, "pipe is not a plain file"),
        (lambda d: (d / "link").symlink_to("/etc/passwd"), UnsafePathError, "link is a symbolic link"),
        (
            lambda d: ((d / "y.data").rename(d.parent / "y"), (d / "y.data").symlink_to(d.parent / "y")),
            UnsafePathError,
            r"y\.data is a symbolic link",
        ),
    ],
)
@pytest.mark.usefixtures("never_opened")
def test_what_does_not_belong_is_refused_by_name(
    directory: Path, change: Callable[[Path], Any], error: type[EdgeAIError], reason: str
) -> None:
    change(directory)
    with pytest.raises(error, match=reason):
        load(directory)


def forged(directory: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The bundle with another manifest, whose checksum is right."""
    data = json.loads((directory / "manifest.json").read_text())
    change(data)
    content = json.dumps(data).encode()
    (directory / "manifest.json").write_bytes(content)
    (directory / "manifest.sha256").write_text(f"{hashlib.sha256(content).hexdigest()}  manifest.json\n")
    return directory


OUTSIDE = {"sha256": "0" * 64, "size_bytes": 1}


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        (
            lambda d: d["files"].update({"../../etc/passwd": OUTSIDE}),
            UnsafePathError,
            "'../../etc/passwd' is not a plain",
        ),
        (lambda d: d["files"].update({"/etc/passwd": OUTSIDE}), UnsafePathError, "'/etc/passwd' is not a plain"),
        (lambda d: d["files"].update({"..": OUTSIDE}), UnsafePathError, r"'\.\.' is not a plain"),
        (lambda d: d["files"].update({"a\\b": OUTSIDE}), UnsafePathError, "is not a plain file name"),
        (lambda d: d["files"].update({"C:x": OUTSIDE}), UnsafePathError, "is not a plain file name"),
        (lambda d: d["files"].update({"": OUTSIDE}), UnsafePathError, "is not a plain file name"),
        (lambda d: d["files"].update({"ghost": OUTSIDE}), IntegrityError, "ghost is missing"),
        (lambda d: d["files"].pop("y.data"), None, r"y\.data is not in the manifest"),
        (lambda d: d["files"]["y.data"].update(sha256="x"), IntegrityError, "no sha256 or no size"),
        (lambda d: d["files"]["y.data"].update(size_bytes="9"), IntegrityError, "no sha256 or no size"),
        (lambda d: d["files"]["y.data"].pop("sha256"), IntegrityError, "sha256"),
        (lambda d: d.update(model="../m.onnx"), IntegrityError, "is not among the files"),
        (lambda d: d.update(task=[]), IntegrityError, "task: not an object"),
        (lambda d: d.update(tolerance="1"), IntegrityError, "tolerance: not a number"),
        (lambda d: d.update(format=2), IntegrityError, "reads format 1"),
        (lambda d: d.update(kind="zip"), IntegrityError, "it is zip"),
        (lambda d: d.pop("lineage"), IntegrityError, "cannot be used .'lineage'"),
        (lambda d: d.update(lineage=[{"oops": 1}]), IntegrityError, "cannot be used"),
        (lambda d: d.update(signature={"inputs": 3}), IntegrityError, "cannot be used"),
    ],
)
@pytest.mark.usefixtures("never_opened")
def test_a_manifest_that_lies_or_is_malformed_is_refused(
    directory: Path, change: Callable[[dict[str, Any]], Any], error: type[EdgeAIError] | None, reason: str
) -> None:
    with pytest.raises(error or IntegrityError, match=reason):
        load(forged(directory, change))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_manifest_that_is_not_json_is_refused(directory: Path, content: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"manifest\.json cannot be used"):
        Manifest.from_bytes(content, directory)


def test_a_manifest_of_any_size_is_not_read(directory: Path) -> None:
    with open(directory / "manifest.json", "r+b") as stream:
        stream.truncate(17 << 20)  # sparse
    with pytest.raises(ResourceLimitError, match=r"manifest\.json is larger than 16 MiB"):
        open_bundle(directory)


def test_packing_again_gives_the_same_bytes(tmp_path: Path, artifact: Artifact, golden: Golden) -> None:
    first, second = (pack(artifact, tmp_path / name, golden=golden) for name in ("1.zip", "2.zip"))
    assert first.path.read_bytes() == second.path.read_bytes()
    first.close()
    second.close()


def test_an_unzipped_bundle_is_a_bundle(tmp_path: Path, artifact: Artifact) -> None:
    pack(artifact, tmp_path / "b.zip").close()
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        archive.extractall(tmp_path / "out")
        assert archive.testzip() is None
    assert open_bundle(tmp_path / "out").golden() is None


def test_a_hard_linked_file_is_still_checked_by_its_content(directory: Path) -> None:
    os.link(directory / "y.data", directory.parent / "elsewhere")
    open_bundle(directory)
    (directory.parent / "elsewhere").write_bytes(b"other")
    with pytest.raises(IntegrityError, match=r"y\.data is not what the manifest says"):
        open_bundle(directory)


def test_nothing_is_replaced_without_asking(packed: Path, artifact: Artifact) -> None:
    before = packed.read_bytes() if packed.is_file() else sorted(packed.iterdir())
    with pytest.raises(ExistsError, match="already exists"):
        pack(artifact, packed)
    assert before == (packed.read_bytes() if packed.is_file() else sorted(packed.iterdir()))
    pack(artifact, packed, overwrite=True).close()
    with open_bundle(packed) as bundle:
        assert bundle.golden() is None


@pytest.mark.parametrize("name", ["out.bundle", "out.zip"])
@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        ({"extras": {"../up": "labels"}}, UnsafePathError, "'../up' is not a plain file name"),
        ({"extras": {"manifest.json": "labels"}}, UsageError, r"two files would be called manifest\.json"),
        ({"extras": {"model.onnx": "labels"}}, UsageError, r"two files would be called model\.onnx"),
        ({"extras": {"t.json": "missing"}}, DataError, r"missing: no such file .it was to become t\.json"),
        ({"task": {"x": object()}}, UsageError, "a value for the manifest is not JSON"),
        ({"results": {"x": float("nan")}}, UsageError, "a value for the manifest is not JSON"),
    ],
)
def test_what_cannot_be_packed_leaves_nothing(
    tmp_path: Path, artifact: Artifact, name: str, options: dict[str, Any], error: type[EdgeAIError], reason: str
) -> None:
    (tmp_path / "labels").touch()
    if "extras" in options:
        options = {"extras": {key: tmp_path / value for key, value in options["extras"].items()}}
    with pytest.raises(error, match=reason):
        pack(artifact, tmp_path / name, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels", "source"]


def test_a_model_whose_weights_are_gone_is_not_packed(tmp_path: Path, artifact: Artifact) -> None:
    (artifact.path.parent / "y.data").unlink()
    with pytest.raises(ModelFormatError, match=r"its data file y\.data cannot be read"):
        pack(artifact, tmp_path / "b.zip")


def test_weights_in_a_folder_are_not_packed(tmp_path: Path, artifact: Artifact) -> None:
    folder = artifact.path.parent / "weights"
    folder.mkdir()
    model = onnx.load(artifact.path)
    onnx.save_model(model, artifact.path, save_as_external_data=True, location="weights/y.data", size_threshold=0)
    with pytest.raises(UnsafePathError, match=r"'weights/y\.data' is not a plain file name .a bundle is flat"):
        pack(artifact, tmp_path / "b.zip")


def test_golden_vectors_must_pair(golden: Golden) -> None:
    with pytest.raises(DataError, match="2 inputs but 1 expected"):
        Golden(golden.inputs, golden.expected.take([0]))
    with pytest.raises(UsageError, match="tolerance 0 is not"):
        Golden(golden.inputs, golden.expected, 0)


def test_golden_vectors_that_unpack_too_large_are_not_read(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_bundle(directory)
    monkeypatch.setattr(bundle_module, "_LARGEST_GOLDEN_BYTES", 100)
    with pytest.raises(ResourceLimitError, match=r"golden\.npz: unpacks to \d+ bytes, more than 100"):
        bundle.golden()


def test_golden_vectors_that_are_no_archive_are_refused(directory: Path) -> None:
    bundle = open_bundle(directory)
    (directory / "golden.npz").write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"golden\.npz: not an \.npz"):
        bundle.golden()


def test_what_is_a_bundle(packed: Path, tmp_path: Path, artifact: Artifact) -> None:
    shutil.move(packed, tmp_path / "renamed")
    assert is_bundle(tmp_path / "renamed")
    open_bundle(tmp_path / "renamed").close()
    assert not is_bundle(artifact.path)
    assert not is_bundle(tmp_path / "nothing")
    with pytest.raises(IntegrityError, match="no such bundle"):
        open_bundle(tmp_path / "nothing.zip")
