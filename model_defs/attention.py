"""Transformer blocks shared by the `transformer`, `bert` and `gpt` families (Vaswani et al., 2017, arXiv:1706.03762).

Letters in the shape comments: B batch, S queries, P cached keys, T = P + S keys, W width, H heads, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KeyValue = tuple[Tensor, Tensor]  # each (B, H, T, D)


class Attention(nn.Module):
    """Multi-head self-attention that can continue from cached keys and values."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.head_size, self.dropout = heads, width // heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None, past: KeyValue | None) -> tuple[Tensor, KeyValue]:
        """Attend from x (B,S,W) to itself and `past`; `mask` (B,1,S,T) bool is True where a key may be seen."""
        query, key, value = (self.split_heads(part) for part in self.qkv(x).chunk(3, dim=-1))  # (B,H,S,D)
        if past is not None:
            key = torch.cat((past[0], key), dim=2)  # (B,H,T,D)
            value = torch.cat((past[1], value), dim=2)  # (B,H,T,D)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return self.out(mixed.transpose(1, 2).flatten(2)), (key, value)  # (B,S,W)

    def split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.head_size)).transpose(1, 2)  # (B,H,S,D)


class FeedForward(nn.Sequential):
    """Two linear layers applied to each position alone."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width), nn.Dropout(dropout))


class Block(nn.Module):
    """Attention, then feed-forward, each with a residual connection.

    `pre_norm` normalizes what enters each half (GPT-2); otherwise what leaves it (BERT, and the paper).
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float, *, pre_norm: bool) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.attention = Attention(width, heads, dropout)
        self.attention_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, hidden, dropout)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None, past: KeyValue | None = None) -> tuple[Tensor, KeyValue]:
        """Return the new x (B,S,W) and the keys and values (B,H,T,D) that a later call may continue from."""
        attended, present = self.attention(self.attention_norm(x) if self.pre_norm else x, mask, past)
        x = x + self.dropout(attended)
        x = x if self.pre_norm else self.attention_norm(x)
        x = x + self.feed_forward(self.feed_forward_norm(x) if self.pre_norm else x)
        return (x if self.pre_norm else self.feed_forward_norm(x)), present


def initialize(module: nn.Module) -> None:
    """Draw weights from N(0, 1 / (4 width)); use as `model.apply(initialize)`.

    That is the 0.02 of BERT and GPT-2 at their width of 768, and as lively in a narrow model.
    """
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.5 * module.weight.shape[-1] ** -0.5)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
