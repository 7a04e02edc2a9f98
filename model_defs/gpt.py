"""Causal language model with cached keys and values (GPT-2: Radford et al., 2019).

Letters in the shape comments: B batch, S new tokens, P cached tokens, T = P + S, H heads, D head size, W width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeai.samples import Samples
from edgeai.spec import Array, Axis, Signature, TensorSpec
from model_defs.attention import Block, KeyValue, initialize
from model_defs.data import Dataset, split_indices
from model_defs.families import Family
from model_defs.recipe import Optimization, Recipe, Stage
from model_defs.text import KING_JAMES, king_james_chapters
from model_defs.tokenization import END_OF_TEXT, cached_tokenizer, train_byte_pairs


@dataclass(frozen=True)
class GptConfig:
    vocabulary: int = 50257
    positions: int = 1024
    width: int = 768
    layers: int = 12
    heads: int = 12
    dropout: float = 0.1


class Gpt(nn.Module):
    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.token = nn.Embedding(config.vocabulary, config.width)
        self.position = nn.Embedding(config.positions, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, 4 * config.width, config.dropout, pre_norm=True)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.apply(initialize)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, past: Sequence[KeyValue] | None = None
    ) -> tuple[Tensor, tuple[KeyValue, ...]]:
        """Return logits (B,S,vocabulary) and, for each layer, keys and values (B,H,T,D) to pass on as `past`.

        `input_ids` (B,S) int64; `attention_mask` (B,T) int64, 1 = real token, padding on the left;
        `past` as an earlier call returned it, P may be 0. The logits of padding mean nothing.
        """
        cached = 0 if past is None else past[0][0].size(2)
        if attention_mask is None:
            attention_mask = input_ids.new_ones(input_ids.size(0), cached + input_ids.size(1))
        positions = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)[:, cached:]  # (B,S): padding does not count
        mask = causal_mask(attention_mask, input_ids.size(1), cached)
        x = self.dropout(self.token(input_ids) + self.position(positions))  # (B,S,W)
        present = []
        for index, block in enumerate(self.blocks):
            x, key_value = block(x, mask, None if past is None else past[index])
            present.append(key_value)
        return F.linear(self.norm(x), self.token.weight), tuple(present)  # the head is tied to the embedding


def causal_mask(attention_mask: Tensor, queries: int, cached: int) -> Tensor:
    """Which keys each query may see, bool (B,1,S,T): real tokens up to itself, and always itself.

    Seeing itself changes nothing for a real token, and keeps the rows of padding from a softmax over nothing.
    """
    query = torch.arange(queries, device=attention_mask.device)[:, None] + cached  # (S,1)
    key = torch.arange(cached + queries, device=attention_mask.device)[None, :]  # (1,T)
    real = attention_mask[:, None, None, :] != 0  # (B,1,1,T)
    return ((key <= query) & real) | (key == query)  # (B,1,S,T)


def signature(config: GptConfig) -> Signature:
    """Inputs and outputs without a cache; the export of a decoder adds mask, past and present."""
    return Signature(
        inputs=(TensorSpec("input_ids", "int64", ("batch", "sequence"), low=0, high=config.vocabulary),),
        outputs=(TensorSpec("logits", "float32", ("batch", "sequence", config.vocabulary)),),
        axes=(Axis("batch"), Axis("sequence", 1, config.positions)),
    )


def data(config: GptConfig, directory: Path, *, limit: int | None) -> Dataset:
    """Windows of the first `limit` chapters of the King James Bible; whole chapters are held out."""
    chapters = ["".join(verses) for verses in king_james_chapters()[:limit]]
    share = len(chapters) // 40
    split = split_indices(
        chapters, np.zeros(len(chapters), np.int64), scoring=share, calibration=share, golden=share // 3
    )
    tokenizer = cached_tokenizer(
        directory / "tokenizer.json",
        train_byte_pairs,
        (chapters[i] for i in split["train"]),
        config.vocabulary,
    )
    end = tokenizer.token_to_id(END_OF_TEXT)
    encoded = [np.array([*encoding.ids, end]) for encoding in tokenizer.encode_batch(chapters)]
    parts = {name: np.concatenate([encoded[i] for i in indices]) for name, indices in split.items()}
    length = min(128, config.positions)
    scoring = windows(parts["scoring"], length, limit=128)
    return Dataset(
        train=windows(parts["train"], length),
        calibration=windows(parts["calibration"], length, limit=128),
        scoring=scoring,
        golden=windows(parts["golden"], length, limit=8),
        labels=(),
        preprocessing={
            "tokenizer": "tokenizer.json",
            "max_positions": config.positions,
            "layers": config.layers,
            "heads": config.heads,
            "head_size": config.width // config.heads,
        },
        sources=(KING_JAMES,),
        baselines={"unigram_perplexity": unigram_perplexity(parts["train"], scoring.labels, config.vocabulary)},
    )


def windows(tokens: Array, length: int, limit: int | None = None) -> Samples:
    """`input_ids` (N, length) and the token that follows each as labels; windows share no token."""
    count = min(len(tokens) // (length + 1), limit or len(tokens))
    table = tokens[: count * (length + 1)].reshape(count, length + 1).astype(np.int64)
    return Samples.from_rows({"input_ids": table[:, :-1].copy()}, table[:, 1:].copy())


def unigram_perplexity(train: Array, labels: Array | None, vocabulary: int) -> float:
    """Perplexity of `labels` under the token frequencies of `train`, each token counted once more than seen."""
    counts = np.bincount(train, minlength=vocabulary) + 1.0
    return math.exp(-float(np.log(counts / counts.sum())[labels].mean()))


def recipe(steps: int, batch_size: int, *, chapters: int | None = None) -> Recipe:
    settings = Optimization(steps, batch_size, learning_rate=3e-3, weight_decay=0.1)
    return Recipe(partial(data, limit=chapters), (Stage("training", settings),))


FAMILY = Family(
    name="gpt",
    task="text-generation",
    metric="perplexity",
    presets={
        "tiny": GptConfig(vocabulary=512, positions=32, width=16, layers=2, heads=2, dropout=0.0),
        "reference": GptConfig(vocabulary=2048, positions=256, width=128, layers=4, heads=4, dropout=0.0),
        "base": GptConfig(),
    },
    build=Gpt,
    signature=signature,
    recipes={"tiny": recipe(250, 16, chapters=120), "reference": recipe(240, 32)},
)
