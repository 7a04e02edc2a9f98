"""What a graph computes and moves, node by node, and what this machine can do at most: both measured, on the CPU.

The graph is the one that ONNX Runtime runs, after its own optimizer: its profiler gives times and the shapes of
activations, the optimized file the weights. Counted are the multiply-adds of matrix products, convolutions, attention
and recurrences; everything else is charged for the bytes that it moves.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeai.bench.limits import Ceilings, NodeCost
from edgeai.errors import BenchmarkError
from edgeai.machine import machine
from edgeai.ort import onnxruntime
from edgeai.runtime import load
from edgeai.runtime.settings import SessionSettings
from edgeai.spec import Array, Feed

FLOAT, INTEGER = "float32", "int8"
_CPU = "CPUExecutionProvider"
_RUNS = 20
_SECONDS = 0.5  # of each ceiling; the best of it counts
_LOOKS_ONLY = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Shape", "Size", "Flatten", "Identity"})
_KERNEL = "_kernel_time"

Shape = Sequence[int]


@final
class GraphProfiler:
    """Implements `edgeai.bench.limits.Profiler`. Ceilings that are not given are measured when first asked for."""

    def __init__(self, ceilings: Ceilings | None = None) -> None:
        self._ceilings = ceilings

    @property
    def ceilings(self) -> Ceilings:
        if self._ceilings is None:
            self._ceilings = measure_ceilings()
        return self._ceilings

    def nodes(self, path: str | Path, feed: Feed, settings: SessionSettings | None = None) -> tuple[NodeCost, ...]:
        """Every node that one run of `feed` executes, with the median of some runs.

        Without `settings` a bundle runs in its own.

        Raises what opening the model raises, and BenchmarkError if ONNX Runtime cannot profile it.
        """
        with (
            tempfile.TemporaryDirectory(prefix="edgeai-profile-") as name,
            load(path, ep="cpu", settings=settings) as session,
        ):
            return _profile(session.path, session.settings, feed, Path(name))


def _profile(path: Path, settings: SessionSettings, feed: Feed, directory: Path) -> tuple[NodeCost, ...]:
    ort = onnxruntime()
    options = settings.apply(ort)
    options.enable_profiling = True
    options.profile_file_prefix = str(directory / "profile")
    options.optimized_model_filepath = str(directory / "optimized.onnx")
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
    disabled = list(settings.disabled_optimizers) or None
    try:
        session = ort.InferenceSession(str(path), options, providers=[_CPU], disabled_optimizers=disabled)
        for _ in range(_RUNS):
            session.run(None, dict(feed))
        events = json.loads(Path(session.end_profiling()).read_text())
        graph = onnx.load(directory / "optimized.onnx", load_external_data=False).graph
    # onnxruntime's exceptions share no base below Exception.
    except Exception as error:
        said = str(error).strip() or type(error).__name__
        raise BenchmarkError(f"{path}: cannot be profiled: {said.splitlines()[0]}") from error
    weights = {tensor.name: tensor for tensor in graph.initializer}
    durations: dict[str, list[int]] = defaultdict(list)
    arguments: dict[str, Mapping[str, Any]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            key = event["name"].removesuffix(_KERNEL)
            durations[key].append(event["dur"])
            arguments[key] = event["args"]
    nodes = _nodes(graph, {key: str(arguments[key]["op_name"]) for key in durations})
    return tuple(_cost(key, arguments[key], durations[key], nodes.get(key), weights) for key in durations)


def _nodes(graph: onnx.GraphProto, kinds: Mapping[str, str]) -> dict[str, onnx.NodeProto]:
    """The nodes by the profiler's names for them; `kinds` are in the order in which they ran, and so is the file.

    A node without a name is called by its kind and a number. Kinds of which some cannot be told apart are left out.
    """
    nodes = {node.name: node for node in graph.node if node.name}
    for kind in set(kinds.values()):
        keys = [key for key, of in kinds.items() if of == kind and key not in nodes]
        nameless = [node for node in graph.node if not node.name and node.op_type == kind]
        if len(keys) == len(nameless):
            nodes |= zip(keys, nameless, strict=True)
    return nodes


def _cost(
    name: str,
    arguments: Mapping[str, Any],
    durations_us: Sequence[int],
    node: onnx.NodeProto | None,
    weights: Mapping[str, TensorProto],
) -> NodeCost:
    kind: str = arguments["op_name"]
    times = max(1, round(len(durations_us) / _RUNS))  # in the body of a loop a node runs more than once
    held = [weights[name] for name in node.input if name in weights] if node else []
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute} if node else {}
    moved = int(arguments["activation_size"]) + int(arguments["output_size"])
    read = sum(map(_tensor_bytes, held))
    if kind.startswith("Gather"):  # only the rows that were asked for
        read = min(read, int(arguments["output_size"]))
    if kind in _LOOKS_ONLY:
        moved = read = 0
    is_integer = "Integer" in kind or kind.startswith(("QLinear", "QGemm", "QAttention", "DynamicQuantizeM"))
    return NodeCost(
        name=name,
        op_type=kind,
        provider="cpu" if arguments.get("provider") == _CPU else str(arguments.get("provider")),
        time_ns=round(statistics.median(durations_us) * 1000 * times),
        operations=times
        * operations(kind, _shapes(arguments, "input"), _shapes(arguments, "output"), held, attributes),
        weight_bytes=read,
        activation_bytes=moved * times,
        number_format=INTEGER if is_integer or attributes.get("accuracy_level") == 4 else FLOAT,
    )


def operations(
    kind: str,
    inputs: Sequence[Shape],
    outputs: Sequence[Shape],
    weights: Sequence[TensorProto],
    attributes: Mapping[str, Any],
) -> int:
    """Arithmetic of one node: two for each multiply-add. `inputs` lacks weights that were packed for the kernel."""
    if not inputs or not outputs or not outputs[0]:
        return 0
    out: int = math.prod(outputs[0])
    large = max(weights, key=_count, default=None)
    if "Conv" in kind and large is not None and len(large.dims) > 2:
        if "Transpose" in kind:
            return 2 * math.prod(inputs[0]) * _count(large) // int(large.dims[0])
        return 2 * out * _count(large) // int(large.dims[0])
    if kind in ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"):
        steps = math.prod(inputs[0][:2])
        return 2 * steps * sum(_count(tensor) for tensor in weights if len(tensor.dims) == 3)
    if "Gemm" in kind:
        return 2 * out * math.prod(inputs[0]) // max(outputs[0][0], 1)
    if "MatMul" in kind:
        return 2 * out * (inputs[0][-2] if attributes.get("transA") and len(inputs[0]) > 1 else inputs[0][-1])
    if "Attention" in kind:
        projection = 0
        if large is not None and len(large.dims) == 2 and kind in ("Attention", "QAttention"):
            projection = 2 * math.prod(inputs[0][:-1]) * _count(large)
        return projection + 4 * out * _attended(inputs, outputs)
    return 0


def _attended(inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """The number of positions that each query looks at."""
    if len(outputs) > 1 and len(outputs[1]) == 4:  # with a cache: (batch, heads, positions, size)
        return outputs[1][2]
    if len(inputs) > 1 and len(inputs[1]) in (3, 4) and len(inputs[1]) == len(inputs[0]):
        return inputs[1][-2]
    return inputs[0][-2]


def _shapes(arguments: Mapping[str, Any], side: str) -> list[Shape]:
    """Shapes as the profiler writes them: [{"float": [1, 5]}, ...]."""
    return [shape for entry in arguments.get(f"{side}_type_shape", ()) for shape in entry.values()]


def _tensor_bytes(tensor: TensorProto) -> int:
    bits = 4 if tensor.data_type in (TensorProto.INT4, TensorProto.UINT4) else 0
    return _count(tensor) * (bits or 8 * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)) // 8


def _count(tensor: TensorProto) -> int:
    count: int = math.prod(tensor.dims)
    return count


def measure_ceilings(*, seconds: float = _SECONDS) -> Ceilings:
    """What this machine does at best with all cores: products of large matrices, and bytes moved. Takes seconds."""
    cores, cache = machine().cores, last_cache_bytes()
    rate = {kind: max(_gemm(n, n, n, kind, seconds) * 2 * n**3 for n in (512, 1024)) for kind in (FLOAT, INTEGER)}
    near = max(1 << 20, min(cache // 4, 8 << 20))
    far = max(128 << 20, 4 * cache)
    side = 4096
    cached = max(_moved(near, cores, seconds), _gemm(1, 1024, near // 4096, FLOAT, seconds) * near)
    memory = max(_moved(far, cores, seconds), _gemm(1, side, far // (4 * side), FLOAT, seconds) * far)
    return Ceilings(rate, memory, max(cached, memory), cache, cores)


def last_cache_bytes(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """The largest cache that the kernel tells of; 0 if it tells of none."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    sizes = [path.read_text().strip() for path in root.glob("index*/size")]
    return max((int(size[:-1]) * units[size[-1]] for size in sizes if size[-1:] in units), default=0)


def _gemm(m: int, k: int, n: int, kind: str, seconds: float) -> float:
    """Products of (m, k) and (k, n) a second, the fastest one."""
    dtype, weight_dtype, op = (
        (np.float32, np.float32, "MatMul") if kind == FLOAT else (np.uint8, np.int8, "MatMulInteger")
    )
    weight = np.ones((k, n), weight_dtype)
    graph = helper.make_graph(
        [helper.make_node(op, ["a", "b"], ["c"])],
        "ceiling",
        [helper.make_tensor_value_info("a", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), [m, k])],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT if kind == FLOAT else TensorProto.INT32, [m, n])],
        [numpy_helper.from_array(weight, "b")],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    ort = onnxruntime()
    session = ort.InferenceSession(model.SerializeToString(), SessionSettings().apply(ort), providers=[_CPU])
    feed = {"a": np.ones((m, k), dtype)}
    return 1e9 / _best_ns(lambda: session.run(None, feed), seconds)


def _moved(size_bytes: int, threads: int, seconds: float) -> float:
    """Bytes a second that are copied (read and written) or read, whichever is more."""
    parts = [np.ones(size_bytes // threads // 8, np.float32) for _ in range(2 * threads)]
    pairs = list(zip(parts[::2], parts[1::2], strict=True))
    half = sum(source.nbytes for source, _ in pairs)
    with ThreadPoolExecutor(threads) as pool:

        def all_of(work: Callable[[tuple[Array, Array]], object]) -> Callable[[], object]:
            return lambda: list(pool.map(work, pairs))

        copied = 2 * half / _best_ns(all_of(lambda pair: np.copyto(pair[1], pair[0])), seconds)
        read = half / _best_ns(all_of(lambda pair: pair[0].max()), seconds)
    return max(copied, read) * 1e9


def _best_ns(work: Callable[[], object], seconds: float) -> int:
    best, end = 0, time.perf_counter_ns() + int(seconds * 1e9)
    while True:
        begin = time.perf_counter_ns()
        work()
        now = time.perf_counter_ns()
        best = min(best or now - begin, now - begin)
        if now >= end:
            return max(best, 1)
