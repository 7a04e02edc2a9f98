"""External data is found without the onnx package, wherever a tensor can hide."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeai.errors import EdgeAIError, ModelFormatError, UnsafePathError
from edgeai.external import compiled_nodes, external_files, metadata, refuse_outside


def tensor(location: str | None, name: str = "w") -> TensorProto:
    made = numpy_helper.from_array(np.ones(3, np.float32), name)
    if location is not None:
        made.ClearField("raw_data")
        made.data_location = TensorProto.EXTERNAL
        for key, value in (("offset", "0"), ("location", location), ("length", "12")):
            made.external_data.add(key=key, value=value)
    return made


def constant(location: str) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["c"], value=tensor(location))


def save(path: Path, *initializers: TensorProto, nodes: tuple[onnx.NodeProto, ...] = (), **more: object) -> Path:
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])
    graph = helper.make_graph([*nodes, helper.make_node("Identity", ["w"], ["y"])], "g", [], [y], list(initializers))
    path.write_bytes(helper.make_model(graph, **more).SerializeToString())
    return path


def test_finds_them_in_every_place(tmp_path: Path) -> None:
    inner = helper.make_graph([constant("in-subgraph")], "sub", [], [], [tensor("in-subgraph-initializer")])
    branch = helper.make_node("If", ["w"], ["b"], then_branch=inner, else_branch=helper.make_graph([], "e", [], []))
    many = helper.make_node("Odd", [], ["o"])
    many.attribute.add(name="t", type=onnx.AttributeProto.TENSORS).tensors.append(tensor("in-tensors"))
    sparse = onnx.SparseTensorProto(values=tensor("in-values"), indices=tensor("in-indices"))
    function = helper.make_function("d", "f", [], ["c"], [constant("in-function")], [helper.make_opsetid("", 17)])
    path = save(
        tmp_path / "m.onnx", tensor("a.data"), tensor("a.data", "v"), tensor(None, "u"), nodes=(branch, many),
        functions=[function],
    )  # fmt: skip
    model = onnx.load_model(path, load_external_data=False)
    model.graph.sparse_initializer.append(sparse)
    path.write_bytes(model.SerializeToString())
    assert set(external_files(path)) == {
        "a.data", "in-subgraph", "in-subgraph-initializer", "in-tensors", "in-values", "in-indices", "in-function",
    }  # fmt: skip


def test_a_model_without_them(tmp_path: Path) -> None:
    assert external_files(save(tmp_path / "m.onnx", tensor(None))) == ()
    (tmp_path / "m.ort").write_bytes(b"\x18\0\0\0ORTM" + bytes(50))
    assert external_files(tmp_path / "m.ort") == ()


def test_plain_files_beside_the_model_pass(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.data").write_bytes(bytes(12))
    assert refuse_outside(save(tmp_path / "m.onnx", tensor("sub/w.data"))) == ("sub/w.data",)


def test_a_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", tensor("a.data"))
    (tmp_path / "a.data").write_bytes(bytes(11))
    with pytest.raises(ModelFormatError, match=r"m\.onnx: its data file a\.data is cut off: it has 11 of 12 bytes"):
        refuse_outside(path)
    (tmp_path / "a.data").write_bytes(bytes(12))
    assert refuse_outside(path) == ("a.data",)


@pytest.mark.parametrize("location", ["../w", "/etc/passwd", "a/../../w", "", "nul\0"])
def test_paths_outside_are_refused(tmp_path: Path, location: str) -> None:
    with pytest.raises(UnsafePathError, match="lies outside its directory"):
        refuse_outside(save(tmp_path / "m.onnx", tensor(location)))


def test_links_and_odd_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(bytes(12))
    os.link(tmp_path / "real", tmp_path / "hard")
    (tmp_path / "soft").symlink_to("real")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dirlink").symlink_to("dir")
    for name, error, reason in (
        ("hard", UnsafePathError, "'hard', which is not a plain file of its own"),
        ("soft", UnsafePathError, "'soft', which is a symbolic link"),
        ("dirlink/x", UnsafePathError, "'dirlink/x', which is a symbolic link"),
        ("dir", UnsafePathError, "'dir', which is not a plain file"),
        ("gone", ModelFormatError, r"its data file gone cannot be read \(No such file"),
    ):
        with pytest.raises(error, match=reason):
            refuse_outside(save(tmp_path / "m.onnx", tensor(name)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"\x3a", "the file is truncated"),
        (b"\x3a\x05ab", "a field runs past the end"),
        (b"\x3b", "no such wire type: 3"),
        (b"\xff" * 20, "a number is longer than 10 bytes"),
        (b"\x11" + bytes(3), "a field runs past the end"),
    ],
)
def test_bytes_that_are_no_protobuf_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelFormatError, match=reason):
        external_files(tmp_path / "m.onnx")


def test_endless_nesting_is_refused(tmp_path: Path) -> None:
    content = b""
    for _ in range(80):  # graph in attribute in node in graph
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            size, prefix = len(content), b""
            while size > 127:
                prefix += bytes([size & 127 | 128])
                size >>= 7
            content = tag + prefix + bytes([size]) + content
    content = b"\x3a" + bytes([len(content) & 127 | 128, len(content) >> 7]) + content
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelFormatError, match="nested too deep"):
        external_files(tmp_path / "m.onnx")


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match=r"no\.onnx: cannot be read"):
        external_files(tmp_path / "no.onnx")


@given(content=st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_no_bytes_give_a_traceback(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    path.write_bytes(content)
    try:
        refuse_outside(path)
    except EdgeAIError as error:
        assert isinstance(error, ModelFormatError | UnsafePathError)


def test_metadata_is_read_without_the_graph(tmp_path: Path) -> None:
    header = '<ir_version: 9, opset_import: ["": 20]>'
    model = onnx.parser.parse_model(f"{header} g (float[2] x) => (float[2] y) {{ y = Relu(x) }}")
    onnx.helper.set_model_props(model, {"author": "me", "größe": "µ"})
    onnx.save(model, tmp_path / "m.onnx")
    assert metadata(tmp_path / "m.onnx") == {"author": "me", "größe": "µ"}
    (tmp_path / "broken.onnx").write_bytes((tmp_path / "m.onnx").read_bytes()[:-3])
    assert metadata(tmp_path / "broken.onnx") == {}
    assert metadata(tmp_path / "none.onnx") == {}


def test_the_mark_of_another_format_hides_nothing_in_an_onnx_file(tmp_path: Path) -> None:
    """ONNX Runtime reads such a file as ONNX: it starts with a doc_string."""
    path = save(tmp_path / "m.onnx", tensor("../outside"))
    path.write_bytes(b"\x32\x06xxORTM" + path.read_bytes())
    assert onnx.load_model(path, load_external_data=False).doc_string == "xxORTM"
    with pytest.raises(UnsafePathError, match="outside its directory"):
        refuse_outside(path)


def _context() -> onnx.NodeProto:
    return helper.make_node("EPContext", ["x"], ["y"], name="part", domain="com.microsoft", ep_cache_context=b"code")


@pytest.mark.parametrize("kind", ["odd name", "unknown group", "long length", "function"])
def test_compiled_code_cannot_be_hidden_in_what_protobuf_forgives(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "m.onnx"
    if kind == "function":
        body = helper.make_function("d", "f", ["x"], ["y"], [_context()], [helper.make_opsetid("com.microsoft", 1)])
        save(path, tensor(None), functions=[body])
        assert compiled_nodes(path) == ("part",)
        return
    data = save(path, tensor(None), nodes=(_context(),)).read_bytes()
    if kind == "odd name":
        data = data.replace(b"\x04part", b"\x04p\xffrt")
    elif kind == "unknown group":
        data += b"\xfb\x06\xfc\x06"  # field 111, begun and ended
    else:
        node = _context().SerializeToString()
        longer = node.replace(b"\x22\x09EPContext", b"\x22\x89\x00EPContext")
        graph = onnx.GraphProto.FromString(b"\x0a" + bytes([len(longer)]) + longer)
        assert graph.node[0].op_type == "EPContext"
        data = b"\x3a" + bytes([len(longer) + 2]) + b"\x0a" + bytes([len(longer)]) + longer
    path.write_bytes(data)
    assert len(compiled_nodes(path)) == 1


def test_what_only_speaks_of_compiled_code_has_none(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["w"], ["r"], name="EPContext", doc_string="no EPContext")
    assert compiled_nodes(save(tmp_path / "m.onnx", tensor(None), nodes=(node,))) == ()
