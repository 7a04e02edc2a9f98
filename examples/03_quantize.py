"""3. Quantize with calibration samples, see what really became integer, and what it did to the answers."""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

import edgeai

out = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
rows = np.random.default_rng(0).standard_normal((256, 64)).astype(np.float32)
calibration, unseen = edgeai.Samples.from_rows({"input": rows[:128]}), edgeai.Samples.from_rows({"input": rows[128:]})

float_model = edgeai.export(model, calibration, out=out / "mlp.onnx", overwrite=True)
quantized = edgeai.quantize(
    float_model, edgeai.Int8Static(per_channel=True), samples=calibration, out=out / "mlp-int8.onnx", overwrite=True
)

print("integer weights:", quantized.lineage[-1].options["coverage"])
print(f"{float_model.path.stat().st_size} -> {quantized.path.stat().st_size} bytes")
print(edgeai.verify(float_model, quantized, unseen, lossy=True).summary)
