"""Float models of every kind that the recipes meet, small enough to quantize in milliseconds."""

from __future__ import annotations

import collections
import dataclasses
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.samples import Samples
from edgeai.spec import Array

_RANDOM = np.random.default_rng(11)


def floats(*shape: int) -> Array:
    return _RANDOM.standard_normal(shape).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Case:
    """A graph, its weights and calibration samples; `refused` are the recipes that do not apply to it."""

    body: str
    weights: Mapping[str, Array]
    samples: Samples
    refused: tuple[str, ...] = ()
    opset: int = 20
    tolerance: float = 0.05


_ATTENTION = {name: floats(16, 16) / 4 for name in ("Wq", "Wk", "Wv", "Wo")}
_HEADS = {"split": np.array([0, 0, 2, 8]), "merge": np.array([0, 0, 16])}
_SEQUENCES = Samples.from_feeds([{"x": floats(2, length, 16)} for length in (3, 8, 5)])
_MASKED = Samples.from_feeds(
    [{"x": floats(2, n, 16), "mask": np.arange(n) < np.array([[n], [1 + n // 2]])} for n in (3, 8, 5)]
)

CASES = {
    "mlp": Case(
        "g (float[n, 16] x) => (float[n, 4] y) { h = Gemm<transB = 1>(x, W, b) r = Relu(h) y = MatMul(r, V) }",
        {"W": floats(32, 16), "b": floats(32), "V": floats(32, 4)},
        Samples.from_rows({"x": floats(24, 16)}),
    ),
    "scaled gemm": Case(
        "g (float[n, 16] x) => (float[n, 8] y) { y = Gemm<alpha = 0.25, beta = 3.0>(x, W, b) }",
        {"W": floats(16, 8), "b": floats(8)},
        Samples.from_rows({"x": floats(24, 16)}),
        opset=13,
    ),
    "convolutions": Case(
        """g (float[n, 3, 8, 8] x) => (float[n, 5] y) {
            h = Conv<pads = [1, 1, 1, 1]>(x, W, b) r = Relu(h)
            g1 = Conv<group = 8, pads = [1, 1, 1, 1]>(r, D) a = Add(r, g1) m = MaxPool<kernel_shape = [2, 2]>(a)
            c = Conv<group = 2>(m, G) k = Clip(c, low, high) p = GlobalAveragePool(k) f = Flatten(p)
            y = Gemm(f, H, z) }""",
        {
            "W": floats(8, 3, 3, 3), "b": floats(8), "D": floats(8, 1, 3, 3), "G": floats(4, 4, 3, 3),
            "H": floats(4, 5), "z": floats(5), "low": np.array(0, np.float32), "high": np.array(6, np.float32),
        },
        Samples.from_rows({"x": floats(12, 3, 8, 8)}),
        tolerance=0.12,  # four layers of random, seven-bit weights
    ),
    "attention with a mask of minus infinity": Case(
        """g (float[b, s, 16] x, bool[b, s] mask) => (float[b, s, 16] y) {
            q = MatMul(x, Wq) k = MatMul(x, Wk) v = MatMul(x, Wv)
            q3 = Reshape(q, split) k3 = Reshape(k, split) v3 = Reshape(v, split)
            q4 = Transpose<perm = [0, 2, 1, 3]>(q3) k4 = Transpose<perm = [0, 2, 3, 1]>(k3)
            v4 = Transpose<perm = [0, 2, 1, 3]>(v3)
            m4 = Unsqueeze(mask, axes) bias = Where(m4, zero, hidden)
            s0 = MatMul(q4, k4) s1 = Mul(s0, scale) s2 = Add(s1, bias) p = Softmax(s2)
            o4 = MatMul(p, v4) o3 = Transpose<perm = [0, 2, 1, 3]>(o4) o = Reshape(o3, merge) y = MatMul(o, Wo) }""",
        _ATTENTION | _HEADS | {
            "axes": np.array([1, 2]), "zero": np.array(0, np.float32), "hidden": np.array(-np.inf, np.float32),
            "scale": np.array(8**-0.5, np.float32),
        },
        _MASKED,
    ),
    "standard Attention operator": Case(
        """g (float[b, s, 16] x) => (float[b, s, 16] y) {
            q = MatMul(x, Wq) k = MatMul(x, Wk) v = MatMul(x, Wv)
            o = Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, v) y = MatMul(o, Wo) }""",
        _ATTENTION,
        _SEQUENCES,
        opset=23,
    ),
    "fused MultiHeadAttention": Case(
        """g (float[b, s, 16] x) => (float[b, s, 16] y) {
            q = MatMul(x, Wq) k = MatMul(x, Wk) v = MatMul(x, Wv)
            o = com.microsoft.MultiHeadAttention<num_heads = 2>(q, k, v) y = MatMul(o, Wo) }""",
        _ATTENTION,
        _SEQUENCES,
    ),
    "tied head": Case(
        "g (int64[n] ids) => (float[n, 24] y) { e = Gather(E, ids) h = Relu(e) y = MatMul(h, T) }",
        {"E": floats(24, 16), "T": floats(16, 24)},
        Samples.from_rows({"ids": _RANDOM.integers(0, 24, 32)}),
    ),
    "fixed batch": Case(
        "g (float[4, 16] x) => (float[4, 8] y) { y = MatMul(x, W) }",
        {"W": floats(16, 8)},
        Samples.from_rows({"x": floats(10, 16)}),
    ),
    "names that a quantizer writes": Case(
        """g (float[n, 16] x) => (float[n, 8] y) {
            x_quantized = MatMul(x, W) x_scale = Relu(x_quantized) x_zero_point = MatMul(x_scale, V)
            y = MatMul(x_zero_point, U) }""",
        {"W": floats(16, 16), "V": floats(16, 16), "U": floats(16, 8)},
        Samples.from_rows({"x": floats(24, 16)}),
    ),
    "an output that Relu reads": Case(
        "g (float[n, 16] x) => (float[n, 8] h, float[n, 8] y) { h = MatMul(x, W) y = Relu(h) }",
        {"W": floats(16, 8)},
        Samples.from_rows({"x": floats(24, 16)}),
    ),
    "constants inside": Case(
        """g (float[n, 16] x) => (float[n, 8] y) {
            none = Mul(x, zero) h = MatMul(none, W) k = Add(h, b) y = Add(k, h) }""",
        {"W": floats(16, 8), "b": floats(8), "zero": np.zeros(1, np.float32)},
        Samples.from_rows({"x": floats(4, 16)}),
    ),
    "a weight of zeros": Case(
        "g (float[n, 16] x) => (float[n, 8] y) { h = MatMul(x, W) y = Add(h, b) }",
        {"W": np.zeros((16, 8), np.float32), "b": floats(8)},
        Samples.from_rows({"x": floats(4, 16)}),
    ),
}  # fmt: skip

Write = Callable[..., Artifact]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write(body, W=array, ...) -> artifact: `body` is ONNX text from the graph's name on."""

    def write(body: str, *, opset: int = 20, **weights: Array) -> Artifact:
        imports = f'"": {opset}, "com.microsoft": 1' if "com.microsoft" in body else f'"": {opset}'
        model = onnx.parser.parse_model(f"<ir_version: 9, opset_import: [{imports}]> {body}")
        model.graph.initializer.extend(onnx.numpy_helper.from_array(array, key) for key, array in weights.items())
        path = tmp_path / "float.onnx"
        onnx.save(model, path)
        artifact = modelfile.open_artifact(path)
        signature = artifact.signature
        ids = tuple(
            dataclasses.replace(spec, low=0, high=24) if spec.name == "ids" else spec for spec in signature.inputs
        )
        return dataclasses.replace(artifact, signature=dataclasses.replace(signature, inputs=ids))

    return write


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def run(path: Path, feed: Mapping[str, Array], **config: str) -> list[Array]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    for key, value in config.items():
        options.add_session_config_entry(f"session.{key}", value)
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [np.asarray(output) for output in session.run(None, dict(feed))]


@pytest.fixture
def answers() -> Callable[..., list[Array]]:
    """answers(path, feed, **session_config) -> outputs in order."""
    return run


@pytest.fixture
def distance() -> Callable[[Artifact, Artifact, Samples], float]:
    """Relative Euclidean distance of the answers, the worst of all outputs and feeds."""

    def distance(reference: Artifact, candidate: Artifact, samples: Samples) -> float:
        batch = reference.signature.inputs[0].shape[0]
        errors = []
        for feed in samples.feeds(batch if isinstance(batch, int) else len(samples)):
            if isinstance(batch, int) and len(feed["x"]) != batch:
                continue
            for want, got in zip(run(reference.path, feed), run(candidate.path, feed), strict=True):
                errors.append(float(np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-9)))
        return max(errors)

    return distance


@pytest.fixture
def operators() -> Callable[[Artifact], collections.Counter[str]]:
    def operators(artifact: Artifact) -> collections.Counter[str]:
        graph = modelfile.load(artifact.path).graph
        return collections.Counter(node.op_type for node in ir.traversal.RecursiveGraphIterator(graph))

    return operators


@pytest.fixture(scope="session")
def exported_mlp(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """An MLP as torch exports it: Gemms, and value_info for weights that quantizers trip over."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    module: Any = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.LayerNorm(64), nn.Linear(64, 4)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own deprecations
        program = torch.onnx.export(
            module,
            (torch.randn(2, 16),),
            input_names=["x"],
            output_names=["y"],
            dynamic_shapes=({0: torch.export.Dim("n", min=1, max=64)},),
            opset_version=20,
            verbose=False,
        )
    path = tmp_path_factory.mktemp("mlp") / "mlp.onnx"
    program.save(str(path), external_data=False)
    return modelfile.open_artifact(path)
