"""An fp32 model larger than memory to four bits: peak memory, seconds and MB/s, in a process of its own.

Writes a chain of MatMuls of the asked size (8 GB by default) into a temporary directory, tensor by tensor, and
leaves `benchmarks/results/streaming_quantization.json`.

    python benchmarks/streaming_quantization.py [GIGABYTES] [METHOD]
"""

import json
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgeai.cli.console import print_table
from edgeai.machine import machine
from edgeai.modelfile import open_artifact
from edgeai.quantization import Int4Weight, quantize
from edgeai.storage import atomic_text

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "streaming_quantization.json"
WIDTH = 8192  # of every layer: 268 MB of float32
LIMIT_BYTES = 2_000_000_000


def write_chain(path: Path, layers: int) -> int:
    """x -> MatMul -> ... -> y with normal weights that keep the size of x; bytes of weights written."""
    random = np.random.default_rng(0)
    data = path.with_suffix(".data")
    tensors, nodes = [], []
    with open(data, "wb") as stream:
        for index in range(layers):
            weight = random.standard_normal((WIDTH, WIDTH), dtype=np.float32) / np.float32(WIDTH**0.5)
            tensor = onnx.TensorProto(
                name=f"W{index}", data_type=onnx.TensorProto.FLOAT, dims=weight.shape,
                data_location=onnx.TensorProto.EXTERNAL,
            )  # fmt: skip
            place = {"location": data.name, "offset": str(stream.tell()), "length": str(weight.nbytes)}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=value)
            weight.tofile(stream)
            tensors.append(tensor)
            source, target = f"h{index}" if index else "x", f"h{index + 1}" if index < layers - 1 else "y"
            nodes.append(onnx.helper.make_node("MatMul", [source, f"W{index}"], [target], name=f"layer{index}"))
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", WIDTH]) for n in ("x", "y")]
    graph = onnx.helper.make_graph(nodes, "chain", ends[:1], ends[1:], tensors)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), path)
    return data.stat().st_size


def measure(source: Path, out: Path, method: Any) -> dict[str, Any]:
    """Quantize in this process, which does nothing else."""
    before = time.perf_counter()
    done = quantize(open_artifact(source), Int4Weight(method=method), out=out)
    seconds = time.perf_counter() - before
    options = done.lineage[-1].options
    errors = options["weight_errors"].values()
    return {
        "seconds": round(seconds, 1),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "verdict": options["verdict"],
        "proof": options["proof"],
        "weight_error": {"smallest": min(errors), "largest": max(errors)},
        "size_bytes": sum(file.stat().st_size for file in out.parent.glob(f"{out.stem}*")),
    }


def main() -> None:
    gigabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 8.0
    method = sys.argv[2] if len(sys.argv) > 2 else "rtn"
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="edgeai-") as directory, spawn.Pool(1) as pool:
        source = Path(directory) / "float.onnx"
        # In the child too: what a process had before it was forked counts as its peak.
        with spawn.Pool(1) as writer:
            size = writer.apply(write_chain, (source, round(gigabytes * 1e9 / (4 * WIDTH**2))))
        result = pool.apply(measure, (source, Path(directory) / "int4.onnx", method))
    data = {
        "schema": "edgeai.streaming-quantization/1",
        "machine": {"cpu": machine().cpu, "cores": machine().cores, "memory_bytes": machine().memory_bytes},
        "versions": machine().versions,
        "method": method,
        "source_bytes": size,
        "megabytes_per_second": round(size / 1e6 / result["seconds"], 1),
        **result,
    }
    if gigabytes >= 8:
        atomic_text(RESULTS, json.dumps(data, indent=1) + "\n", overwrite=True)
    rows = [
        ("weights", f"{size / 1e9:.2f} GB fp32 -> {data['size_bytes'] / 1e9:.2f} GB int4 ({method})"),
        ("peak memory", f"{data['peak_memory_bytes'] / 1e9:.2f} GB"),
        ("time", f"{data['seconds']:.1f} s, {data['megabytes_per_second']:.0f} MB/s"),
        ("error of a weight", f"{data['weight_error']['largest']:.4f} at most, relative"),
    ]
    print_table(("", "streamed"), rows)
    if data["peak_memory_bytes"] > LIMIT_BYTES:
        raise SystemExit(f"peak memory is above {LIMIT_BYTES / 1e9:.0f} GB")


if __name__ == "__main__":
    main()
