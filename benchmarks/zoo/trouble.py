"""Modules as users write them: some ordinary, some with the habits that exporters stumble over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
import transformers as hf
from torch import Tensor, nn

from zoo import hub, sequence
from zoo.subject import BATCH, Subject, awake, axis, integers, normal, padded, seeded
from zoo.vision import block, head


@dataclass(frozen=True)
class Case:
    """`task` is what optimum calls it, for the models that it takes; `what` says what is special in a few words."""

    name: str
    what: str
    maker: Callable[[], Subject]
    task: str | None = None

    def make(self) -> Subject:
        return seeded(self.maker)


def _left_training(subject: Subject) -> Subject:
    subject.module.train()
    return subject


def _plain() -> Subject:
    module = nn.Sequential(block(3, 16, 3, 2), block(16, 32, 3, 2), *head(32))
    return awake(module, {"input": normal(2, 3, 32, 32)}, {"input": {0: BATCH}})


def _dropout() -> Subject:
    module = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 8))
    return _left_training(awake(module, {"input": normal(2, 16)}, {"input": {0: BATCH}}))


def _batch_norm() -> Subject:
    return _left_training(_plain())


class _Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        if x.abs().max() > 2.5:  # loud inputs are limited
            y = y.clamp(-0.5, 0.5)
        return y


class _Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.body(row).softmax(0) for row in x])


class _Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(24, 8)

    def forward(self, x: Tensor) -> Tensor:  # (8, 4, 6) and nothing else
        return self.body(x.reshape(8, -1))


class _Positions(nn.Module):
    """Table rows up to the length of the input, and a causal mask of that size."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(100, 32), nn.Embedding(64, 32)
        self.attention, self.head = nn.MultiheadAttention(32, 4, batch_first=True), nn.Linear(32, 100)

    def forward(self, ids: Tensor) -> Tensor:
        length = int(ids.shape[1])
        x = self.embed(ids) + self.position(torch.arange(length))
        future = torch.full((length, length), float("-inf")).triu(1)
        return self.head(x + self.attention(x, x, x, attn_mask=future, need_weights=False)[0])


class _Float64(nn.Module):
    """Frequencies from numpy are float64, and so is what they are multiplied with."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.from_numpy(1 / 100 ** (np.arange(0, 16, 2) / 16)))
        self.body = nn.Linear(16, 8)

    def forward(self, time: Tensor) -> Tensor:
        angles = time[:, None].double() * self.frequencies
        return self.body(torch.cat([angles.sin(), angles.cos()], 1).float())


class _Recent(nn.Module):
    """Only the last 16 steps are looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] > 16:
            x = x[:, -16:]
        return self.body(x).mean(1)


class _Padded(nn.Module):
    """Windows of 4 steps; what is missing in the last one is filled up."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % 4:
            x = F.pad(x, (0, 0, 0, 4 - x.shape[1] % 4))
        return self.body(x.reshape(x.shape[0], -1, 32))


class _Running(nn.Module):
    """Levels its input by a mean that it keeps from call to call."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(16, 16)
        self.register_buffer("mean", torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        self.mean.mul_(0.5).add_(0.5 * x.mean(0))
        return self.body(x - self.mean)


def _segformer() -> Subject:
    subject = hub.segformer()
    axes = {**subject.dynamic["pixel_values"], 2: axis("height", 32, 128, 32), 3: axis("width", 32, 128, 32)}
    return Subject(subject.module, subject.example, {"pixel_values": axes})


def _cached() -> Subject:
    config = hf.GPT2Config(
        vocab_size=200, n_positions=64, n_embd=64, n_layer=2, n_head=4, bos_token_id=2, eos_token_id=3
    )
    example = {"input_ids": integers(200, 2, 12)}
    return awake(hf.GPT2LMHeadModel(config).eval(), example, {"input_ids": {0: BATCH, 1: axis("sequence", 2, 48)}})


def _rows(module: type[nn.Module], *shape: int) -> Callable[[], Subject]:
    return lambda: awake(module(), {"x": normal(*shape)}, {"x": {0: BATCH}})


def _times() -> Subject:
    return awake(_Float64(), {"time": normal(5)}, {"time": {0: BATCH}})


def _series(module: type[nn.Module]) -> Callable[[], Subject]:
    return lambda: awake(module(), {"x": normal(2, 12, 8)}, {"x": {0: BATCH, 1: axis("length", 2, 48)}})


def _ids() -> Subject:
    return awake(_Positions(), {"ids": integers(100, 2, 12)}, {"ids": {0: BATCH, 1: axis("length", 2, 48)}})


def _pooled() -> Subject:
    """The lengths decide where the last state is read."""
    return awake(_LastState(), {"ids": integers(100, 2, 12), "mask": padded(12, 7)}, {
        "ids": {0: BATCH, 1: axis("length", 2, 48)}, "mask": {0: BATCH, 1: axis("length", 2, 48)},
    })  # fmt: skip


class _LastState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.recurrent, self.head = (
            nn.Embedding(100, 16),
            nn.LSTM(16, 24, batch_first=True),
            nn.Linear(24, 4),
        )

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states, _ = self.recurrent(self.embed(ids))
        last = mask.sum(1) - 1
        return self.head(states[torch.arange(ids.shape[0]), last])


CASES = (
    Case("cnn", "convolutions and batch norm, dynamic batch", _plain),
    Case("bert", "BertForSequenceClassification with a mask", hub.bert, "text-classification"),
    Case("vit", "ViTForImageClassification", hub.vit, "image-classification"),
    Case("segformer", "SegformerForSemanticSegmentation, any image size", _segformer, "image-segmentation"),
    Case("mistral", "MistralForCausalLM with a sliding window, `use_cache=False`", hub.mistral, "text-generation"),
    Case("gpt2", "GPT2LMHeadModel, `use_cache=False`", hub.gpt2, "text-generation"),
    Case("gpt2-cache", "GPT2LMHeadModel as it comes, with its cache", _cached, "text-generation-with-past"),
    Case("transformer", "nn.Transformer, padding and causal masks", sequence.transformer),
    Case("lstm", "nn.LSTM, last valid state, dynamic batch and length", _pooled),
    Case("positions", "embedding and mask as long as the input, through `int(x.shape[1])`", _ids),
    Case("dropout", "left in training mode, with dropout", _dropout),
    Case("batch-norm", "left in training mode, with batch norm", _batch_norm),
    Case("branch", "`if x.abs().max() > 2.5:`", _rows(_Branch, 2, 16)),
    Case("loop", "`for row in x:` over the batch", _rows(_Loop, 3, 16)),
    Case("reshape", "`x.reshape(8, -1)`: takes a batch of 8 alone", _rows(_Fixed, 8, 4, 6)),
    Case("recent", "`if x.shape[1] > 16: x = x[:, -16:]`", _series(_Recent)),
    Case("windows", "`if x.shape[1] % 4:` pad the rest", _series(_Padded)),
    Case("state", "a buffer that every call changes", _rows(_Running, 4, 16)),
    Case("float64", "sine and cosine in float64", _times),
)
