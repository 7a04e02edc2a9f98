"""Counting against graphs whose figures are known by hand; the profiler itself is the real one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeai.bench.limits import NodeCost
from edgeai.errors import BenchmarkError, ModelFormatError
from edgeai.roofline import GraphProfiler, last_cache_bytes, measure_ceilings
from edgeai.samples import Samples

Paths = Callable[[str], Path]
RANDOM = np.random.default_rng(3)


def saved(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[int]],
    output: str,
    weights: dict[str, np.ndarray],
    out_type: int = TensorProto.FLOAT,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(output, out_type, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def floats(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def profiled(path: Path, **feed: np.ndarray) -> dict[str, NodeCost]:
    return {node.op_type: node for node in GraphProfiler().nodes(path, feed)}


def test_a_product_of_matrices(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"], name="mm")],
                 {"x": [2, 5, 64]}, "y", {"w": floats(64, 48)})  # fmt: skip
    node = profiled(path, x=floats(2, 5, 64))["MatMul"]
    assert (node.name, node.provider, node.number_format) == ("mm", "cpu", "float32")
    assert node.operations == 2 * (2 * 5) * 64 * 48
    assert node.weight_bytes == 4 * 64 * 48
    assert node.activation_bytes == 4 * (2 * 5 * 64 + 2 * 5 * 48)
    assert node.time_ns >= 0


def test_a_gemm_with_a_transposed_input(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", [helper.make_node("Gemm", ["x", "w"], ["y"], name="g", transA=1)],
                 {"x": [64, 7]}, "y", {"w": floats(64, 48)})  # fmt: skip
    assert profiled(path, x=floats(64, 7))["Gemm"].operations == 2 * 7 * 64 * 48


def test_a_grouped_convolution(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="c", group=3, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    path = saved(tmp_path / "m.onnx", [node], {"x": [1, 6, 10, 10]}, "y", {"w": floats(9, 2, 3, 3)})
    assert profiled(path, x=floats(1, 6, 10, 10))["Conv"].operations == 2 * (9 * 10 * 10) * (2 * 3 * 3)


def test_nodes_without_names_are_told_apart(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "v"], ["a"], name="named")]
    edges = (("a", "w", "h"), ("h", "u", "y"))
    nodes += [helper.make_node("Conv", [a, w], [y], kernel_shape=[3, 3]) for a, w, y in edges]
    weights = {"v": floats(9, 12), "w": floats(16, 6, 3, 3), "u": floats(32, 16, 3, 3)}
    path = saved(tmp_path / "m.onnx", nodes, {"x": [1, 6, 10, 9]}, "y", weights)
    found = [node for node in GraphProfiler().nodes(path, {"x": floats(1, 6, 10, 9)}) if node.op_type == "Conv"]
    assert [node.operations for node in found] == [2 * (16 * 8 * 10) * (6 * 9), 2 * (32 * 6 * 8) * (16 * 9)]
    assert [node.weight_bytes for node in found] == [4 * 16 * 6 * 9, 4 * 32 * 16 * 9]


def test_integers_are_told_from_floats_and_weights_are_bytes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="dq"),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["y"], name="mm"),
    ]
    weight = RANDOM.integers(-100, 100, (64, 32)).astype(np.int8)
    path = saved(tmp_path / "m.onnx", nodes, {"x": [4, 64]}, "y", {"w": weight}, TensorProto.INT32)
    found = profiled(path, x=floats(4, 64))
    assert found["MatMulInteger"].number_format == "int8"
    assert found["MatMulInteger"].operations == 2 * 4 * 64 * 32
    assert found["MatMulInteger"].weight_bytes == 64 * 32


def test_a_lookup_reads_its_rows_not_the_table_and_a_view_reads_nothing(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], name="cast", to=TensorProto.INT64),
        helper.make_node("Gather", ["w", "i"], ["rows"], name="g"),
        helper.make_node("Reshape", ["rows", "shape"], ["y"], name="r"),
    ]
    weights = {"w": floats(1000, 16), "shape": np.array([-1], np.int64)}
    found = profiled(saved(tmp_path / "m.onnx", nodes, {"x": [3]}, "y", weights), x=np.ones(3, np.float32))
    assert found["Gather"].weight_bytes == 3 * 16 * 4
    assert (found["Reshape"].weight_bytes, found["Reshape"].activation_bytes) == (0, 0)


def test_a_whole_model_counts_what_its_layers_do(exported: Paths, trained: Paths) -> None:
    feed = next(Samples.load(trained("cnn") / "golden.npz").feeds(1))
    nodes = GraphProfiler().nodes(exported("cnn"), feed)
    assert len({node.name for node in nodes}) == len(nodes)
    products = [node for node in nodes if node.operations]
    assert products
    assert all(node.number_format == "float32" for node in products)
    assert sum(node.weight_bytes for node in nodes) < 1.2 * exported("cnn").stat().st_size


def test_what_cannot_be_profiled_says_so(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ModelFormatError):
        GraphProfiler().nodes(tmp_path / "bad.onnx", {})
    path = saved(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], {"x": [2]}, "y", {})
    with pytest.raises(BenchmarkError, match=r"m.onnx: cannot be profiled: "):
        GraphProfiler().nodes(path, {"x": floats(3)})


def test_ceilings_are_those_of_a_machine() -> None:
    found = measure_ceilings(seconds=0.01)
    assert set(found.operations) == {"float32", "int8"}
    assert min(found.operations.values()) > 1e8
    assert found.cache_bytes >= found.memory_bytes > 1e7
    assert found.cores >= 1


def test_the_last_cache_is_the_largest(tmp_path: Path) -> None:
    for index, size in enumerate(["32K", "1024K", "8M", ""]):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    assert last_cache_bytes(tmp_path) == 8 << 20
    assert last_cache_bytes(tmp_path / "none") == 0
