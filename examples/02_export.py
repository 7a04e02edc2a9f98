"""2. Export alone: nothing is written unless the graph answers as the module does, on shapes the trace never saw."""

import sys
from pathlib import Path

import torch
from torch import nn

import edgeai

out = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))

artifact = edgeai.export(
    model,
    {"input": torch.randn(2, 3, 32, 32)},
    dynamic={"input": {0: "batch", 2: "height", 3: "width"}},
    out=out / "conv.onnx",
    overwrite=True,
)

assert artifact.signature is not None
print(*artifact.signature.inputs, "->", *artifact.signature.outputs)
print("proven over", artifact.lineage[-1].options["verified"])
print(edgeai.verify(model, artifact).summary)
