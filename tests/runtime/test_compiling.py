"""Compiled models: what CPUs refuse, what is trusted, and where a compiled file may run."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import edgeai
from edgeai.artifact import Artifact
from edgeai.errors import (
    ExistsError,
    ModelFormatError,
    ProviderError,
    StorageError,
    UnsafePathError,
    UntrustedCodeError,
    UsageError,
)
from edgeai.external import compiled_nodes, metadata
from edgeai.runtime import compiling, engine_cache, environment
from edgeai.runtime import made_for as made_for_module
from edgeai.runtime.environment import environment_of
from edgeai.runtime.made_for import MadeFor, made_for
from edgeai.runtime.opening import create
from edgeai.runtime.providers import OpenvinoOptions, QnnOptions, TensorrtOptions
from edgeai.runtime.providers.wheels import Wheel
from edgeai.runtime.trust import refuse_untrusted, remember
from edgeai.spec import Axis, Signature, TensorSpec

Write = Callable[..., Path]
SIGNATURE = Signature(
    (TensorSpec("x", "float32", ("batch", 3)),), (TensorSpec("y", "float32", ("batch", 3)),), (Axis("batch", 1, 8),)
)
DOUBLE = "d (float[batch,3] x) => (float[batch,3] y) <float two = {2}> { y = Mul(x, two) }"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEAI_CACHE", str(tmp_path / "cache"))


def write_context(path: Path, *names: str, nested: bool = False) -> Path:
    """A model whose parts some provider has compiled; the code in them is nobody's."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("EPContext", ["x"], ["y"], name=name, domain="com.microsoft", ep_cache_context=b"\x7fcode")
        for name in names
    ]
    if nested:
        branch = helper.make_graph(nodes, "branch", [], [value("y", TensorProto.FLOAT, ["batch", 3])])
        nodes = [helper.make_node("If", ["c"], ["y"], name="if", then_branch=branch, else_branch=branch)]
    graph = helper.make_graph(
        nodes, "c",
        [value("x", TensorProto.FLOAT, ["batch", 3])], [value("y", TensorProto.FLOAT, ["batch", 3])],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def test_a_cpu_compiles_nothing_and_says_what_does(double: Path, tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match=r"cpu compiles nothing ahead.*tensorrt, .*qnn.*--target-specific"):
        edgeai.compile(double, out=tmp_path / "o.onnx", ep="cpu")
    with pytest.raises(ProviderError, match="cuda compiles nothing ahead: it runs the graph itself"):
        edgeai.compile(double, out=tmp_path / "o.onnx", ep="cuda")
    assert not (tmp_path / "o.onnx").exists()


def test_what_cannot_be_compiled_is_refused_before_work_starts(double: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    with pytest.raises(UsageError, match="no execution provider 'tensort'"):
        edgeai.compile(double, out=out, ep="tensort")
    with pytest.raises(UsageError, match="one execution provider compiles a model"):
        edgeai.compile(double, out=out, ep=("tensorrt", "cpu"))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no option 'fp61'"):
        edgeai.compile(double, out=out, ep="tensorrt", options={"fp61": True})
    with pytest.raises(ModelFormatError, match="cannot be read"):
        edgeai.compile(tmp_path / "none.onnx", out=out, ep="tensorrt")
    with pytest.raises(ExistsError):
        edgeai.compile(double, out=double, ep="tensorrt")
    assert not out.exists()


@pytest.mark.parametrize("names", [(), ("part0",), ("part0", "part1")])
@pytest.mark.parametrize("nested", [False, True])
def test_compiled_nodes_are_found_without_the_onnx_package(
    tmp_path: Path, names: tuple[str, ...], nested: bool
) -> None:
    path = write_context(tmp_path / "m.onnx", *names, nested=nested)
    assert compiled_nodes(path) == (("if",) if nested and names else names)


def test_a_plain_model_has_no_compiled_nodes(double: Path, tmp_path: Path) -> None:
    assert compiled_nodes(double) == ()
    assert compiled_nodes(tmp_path / "none.onnx") == ()
    (tmp_path / "empty.onnx").touch()
    assert compiled_nodes(tmp_path / "empty.onnx") == ()
    (tmp_path / "m.ort").write_bytes(b"\0\0\0\0ORTM" + b"\0EPContext\0")
    assert compiled_nodes(tmp_path / "m.ort") == ("in ONNX Runtime's own format",)


@given(cut=st.integers(0, 400), flip=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_damage_is_not_the_searchs_business(tmp_path_factory: pytest.TempPathFactory, cut: int, flip: int) -> None:
    path = write_context(tmp_path_factory.mktemp("damaged") / "m.onnx", "part0", "part1")
    data = bytearray(path.read_bytes())
    data[flip % len(data)] ^= 0x41
    path.write_bytes(data[: len(data) - cut % len(data)])
    assert len(compiled_nodes(path)) <= 2


@pytest.mark.parametrize("nested", [False, True])
def test_foreign_code_is_refused_before_onnxruntime_sees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nested: bool
) -> None:
    path = write_context(tmp_path / "m.onnx", "part0", "part1", "part2", "part3", nested=nested)
    with monkeypatch.context() as patch:
        patch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: pytest.fail("opened"))
        words = r"compiled elsewhere \(EPContext: if\)" if nested else r"EPContext: part0, part1, part2, \.\.\."
        with pytest.raises(UntrustedCodeError, match=words) as refusal:
            edgeai.load(path)
    assert "trust_compiled=True" in refusal.value.hint
    with pytest.raises(ModelFormatError, match="cannot open it"):  # trusted, but this CPU has no use for it
        edgeai.load(path, trust_compiled=True)


def test_only_the_very_bytes_that_were_compiled_here_are_trusted(tmp_path: Path) -> None:
    path = write_context(tmp_path / "m.onnx", "part0")
    remember(path)
    refuse_untrusted(path)
    shutil.copy(path, tmp_path / "copy.onnx")
    refuse_untrusted(tmp_path / "copy.onnx")
    path.write_bytes(path.read_bytes().replace(b"\x7fcode", b"\x7fCode"))
    with pytest.raises(UntrustedCodeError):
        refuse_untrusted(path)


def test_a_register_that_others_could_write_is_not_believed(tmp_path: Path) -> None:
    path = write_context(tmp_path / "m.onnx", "part0")
    remember(path)
    os.chmod(tmp_path / "cache" / "compiled", 0o777)
    with pytest.raises(UnsafePathError, match="could be written to by others"):
        refuse_untrusted(path)


def test_without_a_place_for_the_register_nothing_is_trusted_and_nothing_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_context(tmp_path / "m.onnx", "part0")
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGEAI_CACHE", str(tmp_path / "file"))
    with pytest.raises(UntrustedCodeError, match="compiled elsewhere"):
        refuse_untrusted(path)
    with pytest.raises(StorageError, match="cannot be remembered"):
        remember(path)


@pytest.mark.parametrize("odd", [{"environment": [1]}, {"environment": 1}, {"features": 1}])
def test_a_note_of_another_shape_cannot_be_read(odd: dict[str, Any]) -> None:
    whole = {"onnxruntime": "1", "architecture": "x86_64", "features": None, "provider": "cpu", "environment": {}}
    assert MadeFor.from_json(json.dumps(whole)).differences(MadeFor.from_json(json.dumps(whole))) == []
    with pytest.raises((ValueError, TypeError)):
        MadeFor.from_json(json.dumps(whole | odd))


class Compiler:
    """What a provider's compiler does: puts its code where the nodes were. No CPU has such a provider."""

    nodes = ("part0",)

    def __init__(self, options: Any, source: str, *, embed_compiled_data_into_model: bool, flags: Any) -> None:
        assert embed_compiled_data_into_model
        assert flags == onnxruntime.OrtCompileApiFlags.ERROR_IF_NO_NODES_COMPILED
        self.source = source

    def compile_to_file(self, target: str) -> None:
        write_context(Path(target), *self.nodes)


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """TensorRT, as if it were here. The returned environment may be changed."""
    environment = {"gpu": "Orin", "driver": "580"}
    monkeypatch.setattr(compiling, "refuse_unavailable", lambda name: None)
    monkeypatch.setattr(made_for_module, "refuse_unavailable", lambda name: None)
    monkeypatch.setattr(compiling, "environment_of", lambda name, options: dict(environment))
    monkeypatch.setattr(
        made_for_module, "environment_of",
        lambda name, options: environment | ({"gpu": "other"} if options.device_id else {}),
    )  # fmt: skip
    monkeypatch.setattr(engine_cache.cuda_driver, "driver", lambda: None)
    monkeypatch.setattr(onnxruntime, "ModelCompiler", Compiler)
    real = onnxruntime.SessionOptions

    class Options(real):  # type: ignore[valid-type, misc]
        def add_provider(self, name: str, values: dict[str, str]) -> None:
            environment["given"] = f"{name} {sorted(values)}"

    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    return environment


@pytest.mark.usefixtures("tensorrt")
def test_a_compiled_model_says_where_it_runs_and_is_refused_elsewhere(
    model: Write, tmp_path: Path, tensorrt: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []

    def open_it(path: Path, *_: Any, **__: Any) -> None:
        opened.append(path)

    monkeypatch.setattr(compiling, "create", open_it)
    source, out = model(DOUBLE, signature=SIGNATURE), tmp_path / "o.onnx"
    artifact = edgeai.compile(source, out=out, ep="tensorrt", options={"fp16": True})
    assert len(opened) == 1  # what was written is proven to open
    assert "trt_profile_max_shapes" in tensorrt.pop("given")
    step = artifact.lineage[-1]
    assert (step.tool, step.options["ep"], step.options["trt_fp16_enable"]) == ("compile", "tensorrt", "True")
    stamped = Artifact.from_metadata(out, metadata(out))
    assert (stamped.lineage, stamped.signature) == (artifact.lineage, SIGNATURE)
    assert onnx.load(out).graph.node[0].op_type == "EPContext"  # appended to, and still one whole message
    assert made_for(out) == MadeFor(
        onnxruntime.__version__, edgeai.runtime.made_for.machine().architecture, None, "tensorrt",
        {"gpu": "Orin", "driver": "580"},
    )  # fmt: skip
    refuse_untrusted(out)
    with pytest.raises(ModelFormatError, match=r"made for execution provider tensorrt \(here cpu\)"):
        edgeai.load(out, ep="cpu")
    with pytest.raises(ModelFormatError, match=r"made for gpu Orin \(here other\)"):
        edgeai.load(out, ep="tensorrt", options={"TensorrtExecutionProvider": {"device_id": 1}})
    tensorrt["driver"] = "590"
    with pytest.raises(ModelFormatError, match=r"made for driver 580 \(here 590\).*edgeai compile"):
        edgeai.load(out, ep="tensorrt")


def test_the_environment_says_the_device_and_whose_code_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "installed_wheels", lambda: (Wheel("onnxruntime-openvino", "1.24.1"),))
    assert environment_of("openvino", OpenvinoOptions()) == {
        "onnxruntime": onnxruntime.__version__, "device": "CPU", "provider package": "onnxruntime-openvino 1.24.1",
    }  # fmt: skip
    assert environment_of("openvino", OpenvinoOptions(device_type="GPU.1"))["device"] == "GPU.1"
    assert environment_of("qnn", QnnOptions())["device"] == "htp"
    assert environment_of("qnn", QnnOptions(backend_type="gpu"))["device"] == "gpu"
    monkeypatch.setattr(importlib.metadata, "version", {"onnxruntime_qnn": "2.7.0"}.__getitem__)
    assert environment_of("qnn", QnnOptions())["provider package"] == "onnxruntime_qnn 2.7.0"
    assert {"onnxruntime", "tensorrt"} <= environment_of("tensorrt", TensorrtOptions()).keys()


def test_a_model_that_cannot_be_opened_again_is_not_kept(
    double: Path, tmp_path: Path, tensorrt: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ProviderError("execution provider tensorrt does not start: bad engine")

    monkeypatch.setattr(compiling, "create", fail)
    with pytest.raises(ProviderError, match="tensorrt cannot open what it has compiled: .* bad engine"):
        edgeai.compile(double, out=tmp_path / "o.onnx", ep="tensorrt")
    assert not (tmp_path / "o.onnx").exists()
    monkeypatch.setattr(Compiler, "nodes", ())
    with pytest.raises(ProviderError, match="tensorrt compiled no part of it"):
        edgeai.compile(double, out=tmp_path / "o.onnx", ep="tensorrt")


def test_trust_is_a_recipe_too(double: Path) -> None:
    import pickle

    with edgeai.load(double, ep="cpu", trust_compiled=True, min_on_ep=1.0) as session:
        again = pickle.loads(pickle.dumps(session))
        assert again.run({"x": np.ones((1, 3), np.float32)})["y"].tolist() == [[2, 2, 2]]
        again.close()


def test_the_least_share_must_be_one(double: Path) -> None:
    with pytest.raises(UsageError, match=r"min_on_ep = 1\.5, must be a part"):
        edgeai.load(double, ep="cpu", min_on_ep=1.5)
    assert create.__kwdefaults__ == {"min_on_ep": 0.0, "trust_compiled": False}
