"""How to store a weight whose operator has no integer kernel: Cast and Mul, as `int8-weight` does, or DequantizeLinear.

    python benchmarks/stored_weights.py [--quick] [--out results.json]

One layer each of LSTM (one step), GRU, Conv and ConvTranspose; ratios are to the float file, with their 95 %
intervals. Leave the machine alone while it runs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from edgeai import bench
from edgeai.cli.console import RichProgress, print_table
from edgeai.machine import machine, versions
from edgeai.modelfile import load, open_artifact
from edgeai.quantization import Int8Weight, quantize
from edgeai.samples import Samples
from edgeai.spec import Array
from edgeai.storage import atomic_text
from edgeai.tuning.measuring import file_bytes, ratio_of, time_together

RESULTS = Path(__file__).parent / "results" / "stored_weights.json"
FULL = bench.Workload(min_iterations=200, min_seconds=1.0, max_seconds=10.0, rounds=20)
QUICK = bench.Workload(
    min_iterations=20, max_iterations=40, min_seconds=0.1, max_seconds=1.0, warmup_min_seconds=0.05,
    warmup_max_seconds=0.3, settle_seconds=0, rounds=5,
)  # fmt: skip

# Shapes of the weights, attributes, and the shape of the input.
LAYERS: dict[str, tuple[list[tuple[int, ...]], dict[str, Any], tuple[int, ...]]] = {
    "LSTM": ([(1, 2048, 512), (1, 2048, 512)], {"hidden_size": 512}, (1, 1, 512)),
    "GRU": ([(1, 1536, 512), (1, 1536, 512)], {"hidden_size": 512}, (1, 1, 512)),
    "Conv": ([(128, 128, 3, 3)], {"pads": [1, 1, 1, 1]}, (1, 128, 28, 28)),
    "ConvTranspose": ([(128, 64, 2, 2)], {"strides": [2, 2]}, (1, 128, 28, 28)),
}


def written(op: str, path: Path) -> Array:
    """Write a float model of one layer; an input for it."""
    random = np.random.default_rng(0)
    shapes, attributes, shape = LAYERS[op]
    weights = [
        numpy_helper.from_array((random.standard_normal(size) / 24).astype(np.float32), f"W{index}")
        for index, size in enumerate(shapes)
    ]
    node = helper.make_node(op, ["x", *(weight.name for weight in weights)], ["y"], **attributes)
    infos = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims) for name, dims in (("x", shape), ("y", None))
    ]
    graph = helper.make_graph([node], "layer", infos[:1], infos[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return random.standard_normal(shape).astype(np.float32)


def with_dequantize(stored: Path, path: Path) -> None:
    """The file that `int8-weight` wrote, with DequantizeLinear in place of Cast and Mul."""
    model = load(stored)
    for product in [node for node in model.graph if node.op_type == "Mul"]:
        cast, scales = product.inputs[0].producer(), product.inputs[1]
        array = scales.const_value.numpy()
        axis = max(range(array.ndim), key=lambda axis: array.shape[axis])
        scales.const_value, scales.shape = ir.tensor(array.reshape(-1)), ir.Shape([array.size])
        node = ir.node("DequantizeLinear", [cast.inputs[0], scales], {"axis": axis})
        ir.convenience.replace_nodes_and_values(
            model.graph, product, [product, cast], [node], [product.outputs[0]], [node.outputs[0]]
        )
    ir.save(model, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a trial, not a result")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rows = []
    for op in LAYERS:
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            paths = {form: directory / f"{form}.onnx" for form in ("float", "cast and mul", "dequantize")}
            samples = Samples.from_feeds([{"x": written(op, paths["float"])}])
            quantize(open_artifact(paths["float"]), Int8Weight(), out=paths["cast and mul"])
            with_dequantize(paths["cast and mul"], paths["dequantize"])
            workload = QUICK if arguments.quick else FULL
            report = time_together(paths, samples, directory, workload, RichProgress())
            rows += [
                {"layer": op, "form": form, "bytes": file_bytes(path), "ratio": ratio_of(report, form)}
                for form, path in paths.items()
            ]
    shown = [
        (row["layer"], row["form"], f"{row['bytes'] / 1e6:.2f}", _ratio(row["ratio"]))  # type: ignore[operator]
        for row in rows
    ]
    print_table(("layer", "weights", "MB", "time / float"), shown)
    result = {"machine": machine().cpu, "versions": versions(), "quick": arguments.quick, "rows": rows}
    atomic_text(arguments.out, json.dumps(result, indent=1), overwrite=True)


def _ratio(ratio: Any) -> str:
    return "1" if ratio is None else "{:.2f} ({:.2f}..{:.2f})".format(*ratio)


if __name__ == "__main__":
    main()
