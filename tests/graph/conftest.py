"""Graphs in ONNX text, one exported encoder, and the contract that every pass keeps."""

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
from edgeai.spec import Array, Axis, Signature, TensorSpec

Write = Callable[..., Artifact]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write(body, W=array, ...) -> artifact: `body` is ONNX text from the graph's name on."""

    def write(body: str, *, opset: int = 20, name: str = "model", **weights: Array) -> Artifact:
        model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": {opset}]> {body}')
        model.graph.initializer.extend(onnx.numpy_helper.from_array(array, key) for key, array in weights.items())
        path = tmp_path / f"{name}.onnx"
        onnx.save(model, path)
        return modelfile.open_artifact(path)

    return write


def answers(path: Path | str, feed: Mapping[str, Array]) -> list[Array]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [np.asarray(output) for output in session.run(None, dict(feed))]


def operators(model: ir.Model) -> collections.Counter[str]:
    return collections.Counter(node.op_type for node in ir.traversal.RecursiveGraphIterator(model.graph))


@dataclasses.dataclass
class Outcome:
    model: ir.Model
    modified: bool
    operators: collections.Counter[str]


@pytest.fixture
def keeps_contract(tmp_path: Path) -> Callable[..., Outcome]:
    """Apply a pass; the result must be valid, equal in numbers and left alone by a second application."""

    def apply(pass_: ir.passes.PassBase, artifact: Artifact, feed: Mapping[str, Array]) -> Outcome:
        result = pass_(modelfile.load(artifact.path))
        path = tmp_path / "after.onnx"
        ir.save(result.model.clone(), path)
        if all(node.domain == "" for node in result.model.graph):  # the checker knows no contrib operators
            onnx.checker.check_model(str(path), full_check=True)
        for want, got in zip(answers(artifact.path, feed), answers(path, feed), strict=True):
            np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
        assert not pass_(result.model.clone()).modified, "a second application changed the graph again"
        return Outcome(result.model, result.modified, operators(result.model))

    return apply


@pytest.fixture(scope="session", params=[20, 23])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """One post-norm encoder layer with a padding mask and a tied head, as torch exports it."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(32, 16)
            self.qkv = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
            self.out, self.norm = nn.Linear(16, 16), nn.LayerNorm(16)

        def forward(self, ids: Any, mask: Any) -> Any:
            x = self.embedding(ids)
            batch, length = ids.shape
            q, k, v = (linear(x).view(batch, length, 2, 8).transpose(1, 2) for linear in self.qkv)
            seen = mask.bool()[:, None, None, :].expand(batch, 1, length, length)
            y = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
            x = self.norm(x + self.out(y.transpose(1, 2).reshape(batch, length, 16)))
            return x @ self.embedding.weight.T

    torch.manual_seed(0)
    batch, length = torch.export.Dim("batch", min=1, max=8), torch.export.Dim("length", min=2, max=16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own deprecations
        program = torch.onnx.export(
            Encoder().eval(),
            (torch.randint(0, 32, (2, 5)), torch.ones(2, 5, dtype=torch.int64)),
            input_names=["ids", "mask"],
            output_names=["logits"],
            dynamic_shapes=({0: batch, 1: length}, {0: batch, 1: length}),
            opset_version=request.param,
            optimize=False,  # keeps the Transpose of the tied head where other exporters leave it
            verbose=False,
        )
    path = tmp_path_factory.mktemp("encoder") / "encoder.onnx"
    program.save(str(path), external_data=False)
    shape = ("batch", "length")
    signature = Signature(
        (TensorSpec("ids", "int64", shape, 0, 32), TensorSpec("mask", "int64", shape, 0, 2)),
        modelfile.open_artifact(path).signature.outputs,
        (Axis("batch", 1, 8), Axis("length", 2, 16)),
    )
    return Artifact(path, (), signature)


@pytest.fixture
def encoder_feed() -> dict[str, Array]:
    """ids and mask (3, 7): one row full, one half padded, one of a single token."""
    ids = np.random.default_rng(0).integers(0, 32, (3, 7))
    return {"ids": ids, "mask": (np.arange(7) < np.array([[7], [4], [1]])).astype(np.int64)}
