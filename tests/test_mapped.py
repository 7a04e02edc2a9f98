"""Weights that stay in their file: the same model as the parser's, whatever happens to the file meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeai import mapped, modelfile
from edgeai.errors import ModelFormatError

_DTYPES = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.INT64)
_SIDE = 256


def _proto() -> onnx.ModelProto:
    """Weights of many dtypes, some small, one packed, one as a list of floats, one inside a body."""
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 21]>
        g (float[n, 256] x, bool c) => (float[n, 256] y) {
            h = MatMul(x, w0)
            y = If(c) <
                then_branch = t () => (float[n, 256] a) { a = MatMul(h, w0) },
                else_branch = e () => (float[n, 256] b) { b = Identity(h) }> }""")
    random, shape = np.random.default_rng(0), (_SIDE, _SIDE)
    numbers = random.integers(-8, 8, shape)
    tensors = [ir.to_proto(ir.Tensor(numbers.astype(ir.DataType(d).numpy()), name=f"w{d - 1}")) for d in _DTYPES]
    tensors.append(ir.to_proto(ir.Tensor(numbers.astype(ir.DataType.INT4.numpy()), ir.DataType.INT4, name="packed")))
    tensors.append(onnx.helper.make_tensor("listed", onnx.TensorProto.FLOAT, shape, numbers.astype(np.float32).ravel()))
    tensors.append(onnx.numpy_helper.from_array(np.float32([1, 2]), "small"))
    model.graph.initializer.extend(tensors)
    model.graph.initializer[0].doc_string = "the first"
    body = model.graph.node[1].attribute[0].g
    body.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, np.float32), "inside"))
    return model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(_proto(), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def _mapped_names(model: ir.Model) -> set[str]:
    weights = model.graph.initializers
    return {name for name, value in weights.items() if isinstance(value.const_value, mapped.MappedTensor)}


def test_the_model_is_the_one_that_the_parser_reads(path: Path) -> None:
    found, expected = mapped.load(path), ir.load(path)
    assert _mapped_names(found) == {f"w{dtype - 1}" for dtype in _DTYPES}
    assert ir.to_proto(found) == ir.to_proto(expected)
    for name, value in expected.graph.initializers.items():
        twin = found.graph.initializers[name].const_value
        assert twin is not None and value.const_value is not None and twin.dtype == value.const_value.dtype
        np.testing.assert_array_equal(twin.numpy(), value.const_value.numpy())
        assert twin.tobytes() == value.const_value.tobytes()


def test_what_has_been_read_can_be_given_back_and_read_again(path: Path) -> None:
    model = mapped.load(path)
    weight = model.graph.initializers["w0"].const_value
    assert weight is not None
    first = weight.numpy().copy()
    mapped.release(model)
    np.testing.assert_array_equal(weight.numpy(), first)


def test_a_file_that_is_renamed_over_it_changes_nothing(path: Path) -> None:
    model, expected = mapped.load(path), ir.to_proto(ir.load(path))
    other = path.with_name("other")
    other.write_bytes(b"\0" * path.stat().st_size)
    os.replace(other, path)
    assert ir.to_proto(model) == expected


def test_a_model_can_be_written_over_the_file_that_its_weights_are_mapped_from(path: Path) -> None:
    artifact = modelfile.open_artifact(path)
    expected = ir.load(path).graph.initializers["w0"].const_value
    modelfile.save(modelfile.load(path), artifact, overwrite=True)
    again = ir.load(path).graph.initializers["w0"].const_value
    assert expected is not None and again is not None
    np.testing.assert_array_equal(again.numpy(), expected.numpy())


def test_two_parts_of_a_graph_are_merged_by_the_parser(path: Path) -> None:
    more = onnx.ModelProto()
    more.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((_SIDE, _SIDE), np.float32), "more"))
    path.write_bytes(path.read_bytes() + more.SerializeToString())
    model = mapped.load(path)
    assert "more" in model.graph.initializers and not _mapped_names(model)


def test_a_name_that_stands_twice_is_left_to_the_parser(path: Path) -> None:
    proto = _proto()
    proto.graph.initializer.append(proto.graph.initializer[0])
    onnx.save(proto, path)
    assert ir.to_proto(mapped.load(path)) == ir.to_proto(ir.load(path))


def test_data_that_is_not_what_its_shape_says_is_refused_as_before(path: Path) -> None:
    proto = _proto()
    proto.graph.initializer[0].dims[0] += 1
    onnx.save(proto, path)
    weight = mapped.load(path).graph.initializers["w0"].const_value
    assert weight is not None
    with pytest.raises(ValueError, match="reshape"):
        weight.numpy()


_WHOLE = _proto().SerializeToString()


@given(st.integers(0, len(_WHOLE) - 1), st.binary(max_size=3))
@settings(max_examples=40)
def test_a_damaged_file_is_refused_or_read_and_never_ends_the_process(
    tmp_path_factory: pytest.TempPathFactory, end: int, tail: bytes
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "m.onnx"
    path.write_bytes(_WHOLE[:end] + tail)
    try:
        assert modelfile.load(path).graph.outputs
    except ModelFormatError as error:
        assert str(path) in error.message
