"""Graphs in ONNX text, one exported encoder, and the contract that every pass keeps."""

from __future__ import annotations

import collections
import dataclasses
import functools
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


def attention_module(style: str, mask: str, packed: str) -> Any:
    """One post-norm encoder layer: `style` sdpa or eager, `mask` none, row, full, added or causal.

    `packed`: how query, key and value come out of one product (chunk or view), or "" for three.
    """
    import torch
    from torch import nn
    from torch.nn import functional

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(16, 48) if packed else nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
            self.out, self.norm = nn.Linear(16, 16), nn.LayerNorm(16)
            self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

        def heads(self, x: Any) -> Any:
            batch, length = x.shape[:2]
            if packed == "view":
                return self.qkv(x).view(batch, length, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
            parts = self.qkv(x).chunk(3, -1) if packed else [linear(x) for linear in self.qkv]
            return [part.view(batch, length, 2, 8).transpose(1, 2) for part in parts]

        def forward(self, x: Any, seen: Any = None) -> Any:
            batch, length = x.shape[:2]
            q, k, v = self.heads(x)
            bias = None if seen is None else seen.bool()[:, None, None, :]
            if mask == "full":
                bias = bias.expand(batch, 1, length, length)
            elif mask == "added":
                bias = (1.0 - seen[:, None, None, :].float()) * torch.finfo(torch.float32).min
            if style == "sdpa":
                y = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=mask == "causal")
            else:
                scores = q @ k.transpose(-1, -2) / 8**0.5
                if mask == "causal":
                    later = torch.triu(torch.ones(length, length, dtype=torch.bool), 1)
                    scores = scores.masked_fill(later, float("-inf"))
                if bias is not None:
                    scores = scores + bias if mask == "added" else scores.masked_fill(~bias, -1e9)
                y = scores.softmax(-1) @ v
            x = self.norm(x + self.out(y.transpose(1, 2).reshape(batch, length, 16)))
            return x + self.down(functional.gelu(self.up(x)))

    torch.manual_seed(0)
    return Layer().eval()


@pytest.fixture(scope="session")
def attention(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Artifact]:
    """attention(style, mask, packed, exporter, opset) -> the layer as torch.export or TorchScript writes it."""
    import torch

    directory = tmp_path_factory.mktemp("attention")

    @functools.cache
    def export(style: str, mask: str, packed: str, exporter: str, opset: int) -> Artifact:
        path = directory / f"{style}-{mask}-{packed}-{exporter}-{opset}.onnx"
        masked = mask in ("row", "full", "added")
        example = (torch.randn(2, 5, 16), torch.ones(2, 5, dtype=torch.int64))[: 1 + masked]
        names = ["x", "seen"][: 1 + masked]
        axes = {name: {0: "batch", 1: "length"} for name in names}
        options: dict[str, Any] = {"opset_version": opset, "input_names": names, "output_names": ["y"]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of its own deprecations
            layer = attention_module(style, mask, packed)
            if exporter == "torchscript":
                torch.onnx.export(layer, example, str(path), dynamo=False, dynamic_axes=axes, **options)
            else:
                batch, length = torch.export.Dim("batch", min=1, max=8), torch.export.Dim("length", min=2, max=16)
                shapes = tuple({0: batch, 1: length} for _ in names)
                program = torch.onnx.export(layer, example, dynamic_shapes=shapes, verbose=False, **options)
                program.save(str(path), external_data=False)
        return modelfile.open_artifact(path)

    return export


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
