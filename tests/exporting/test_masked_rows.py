"""A row that attends to nothing is answered with zeros, as torch does, at opsets without an Attention operator."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeai.exporting import export, from_module
from edgeai.spec import Axis, Signature, TensorSpec

SIGNATURE = Signature(
    (
        TensorSpec("x", "float32", ("batch", "sequence", 8)),
        TensorSpec("attention_mask", "int64", ("batch", "sequence"), 0, 2),
    ),
    (),
    (Axis("batch", 1, 4), Axis("sequence", 1, 12)),
)


class Causal(nn.Module):
    """Padding on the left may see neither itself nor what comes before."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        size = x.shape[1]
        seen = torch.ones(size, size, dtype=torch.bool).tril() & (attention_mask[:, None, :] != 0)
        heads = self.linear(x).unflatten(-1, (2, 4)).transpose(1, 2)
        return F.scaled_dot_product_attention(heads, heads, heads, attn_mask=seen[:, None]).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("opset", [18, 20, 23])
def test_left_padding_of_causal_attention_is_right(opset: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    artifact = export(from_module(Causal(), None, signature=SIGNATURE), out=tmp_path / "m.onnx", opset=opset)
    options = artifact.lineage[-1].options
    assert options["exporter"] == "torch.export"
    assert options.get("repaired") == (None if opset == 23 else "rows that attend to nothing")


def test_encoders_keep_the_graph_that_fusions_know(tmp_path: Path) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    artifact = export(layer, torch.randn(2, 5, 8), dynamic={"src": {0: "batch", 1: "length"}}, out=tmp_path / "m.onnx")
    assert "repaired" not in artifact.lineage[-1].options
