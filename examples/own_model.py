"""A module of your own: two inputs, a dict of outputs, and one function that shows what goes in."""

import torch
from torch import Tensor, nn


class TinyNet(nn.Module):
    """Scores a clip of audio-like frames together with a category id."""

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        self.frames = nn.GRU(16, hidden, batch_first=True)
        self.category = nn.Embedding(10, hidden)
        self.score = nn.Linear(hidden, 4)

    def forward(self, frames: Tensor, category: Tensor) -> dict[str, Tensor]:
        encoded, _ = self.frames(frames)  # (batch, time, hidden)
        joined = encoded.mean(1) + self.category(category)  # (batch, hidden)
        return {"scores": self.score(joined).softmax(-1), "embedding": joined}


def example_inputs() -> dict[str, Tensor]:
    """What `edgeai build examples/own_model.py:TinyNet` traces with. Axis 0 is the batch."""
    return {"frames": torch.randn(2, 20, 16), "category": torch.randint(0, 10, (2,))}
