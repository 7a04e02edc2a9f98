"""Bidirectional encoder, pre-trained on masked words and sentence order (Devlin et al., 2018, arXiv:1810.04805).

Letters in the shape comments: B batch, S sequence, W width, V vocabulary, M masked tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeai.samples import Samples
from edgeai.spec import Axis, Signature, TensorSpec
from model_defs.attention import Block, initialize
from model_defs.data import Dataset, majority_accuracy, split_indices, without_repeats
from model_defs.families import Family
from model_defs.recipe import Inputs, Loss, Optimization, Recipe, Stage, augmented
from model_defs.text import (
    SENTENCES,
    halves,
    next_sentence_pairs,
    rated_sentences,
)
from model_defs.tokenization import SPECIAL_TOKENS, cached_tokenizer, encode, train_wordpiece

SENTIMENTS = ("negative", "positive")
CLEAR_RATING = 0.5  # of -4..4; nearer to 0 the raters did not agree on a side
MASK_TOKEN = SPECIAL_TOKENS.index("[MASK]")


@dataclass(frozen=True)
class BertConfig:
    vocabulary: int = 30522
    positions: int = 512
    width: int = 768
    layers: int = 12
    heads: int = 12
    classes: int = 2
    dropout: float = 0.1


class Bert(nn.Module):
    """The encoder: tokens to contextual vectors."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.token = nn.Embedding(config.vocabulary, config.width)
        self.position = nn.Embedding(config.positions, config.width)
        self.segment = nn.Embedding(2, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, 4 * config.width, config.dropout, pre_norm=False)
            for _ in range(config.layers)
        )
        self.pooler = nn.Linear(config.width, config.width)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vector of each token (B,S,W) and of the whole (B,W); inputs are int64 (B,S)."""
        length = input_ids.size(1)
        embedded = self.token(input_ids) + self.position.weight[:length] + self.segment(token_type_ids)
        x = self.dropout(self.norm(embedded))  # (B,S,W)
        # ONNX Runtime's Attention does not broadcast the axis of queries, so it is written out.
        mask = (attention_mask != 0)[:, None, None, :].expand(-1, 1, length, -1)  # (B,1,S,S)
        for block in self.blocks:
            x, _ = block(x, mask)
        # The mean of the real tokens learns in minutes what [CLS] needs hours to gather (arXiv:1908.10084, section 4).
        weight = attention_mask[:, :, None].to(x.dtype)  # (B,S,1)
        whole = (x * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)  # (B,W)
        return x, torch.tanh(self.pooler(whole))


class BertForPreTraining(nn.Module):
    """Two heads: which word was masked (MLM), and does the second segment follow the first (NSP)."""

    def __init__(self, config: BertConfig, bert: Bert) -> None:
        super().__init__()
        self.bert = bert
        self.transform = nn.Sequential(nn.Linear(config.width, config.width), nn.GELU(), nn.LayerNorm(config.width))
        self.bias = nn.Parameter(torch.zeros(config.vocabulary))
        self.follows = nn.Linear(config.width, 2)
        self.transform.apply(initialize)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, masked: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return word logits (M,V) of the tokens where `masked` (B,S) is true, and NSP logits (B,2)."""
        tokens, whole = self.bert(input_ids, attention_mask, token_type_ids)
        words = F.linear(self.transform(tokens[masked]), self.bert.token.weight, self.bias)  # tied to the embedding
        return words, self.follows(whole)


class BertClassifier(nn.Module):
    """What is deployed: the encoder and a linear head on its summary."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.bert = Bert(config)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.width, config.classes)
        self.apply(initialize)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        _, whole = self.bert(input_ids, attention_mask, token_type_ids)
        return self.head(self.dropout(whole))  # (B, classes)


def signature(config: BertConfig) -> Signature:
    shape = ("batch", "sequence")
    return Signature(
        inputs=(
            TensorSpec("input_ids", "int64", shape, low=0, high=config.vocabulary),
            TensorSpec("attention_mask", "int64", shape, low=1, high=2),
            TensorSpec("token_type_ids", "int64", shape, low=0, high=2),
        ),
        outputs=(TensorSpec("logits", "float32", ("batch", config.classes)),),
        axes=(Axis("batch"), Axis("sequence", 1, config.positions)),
    )


def data(config: BertConfig, directory: Path) -> Dataset:
    """Sentences of movie reviews by sentiment; their halves, clear or not, are the pairs of pre-training."""
    rated = rated_sentences("movieReviewSnippets")
    sentences = [sentence for rating, sentence in rated if abs(rating) > CLEAR_RATING]
    labels = np.array([rating > 0 for rating, _ in rated if abs(rating) > CLEAR_RATING], np.int64)
    contents = [" ".join(sentence.lower().split()) for sentence in sentences]
    split = split_indices(contents, labels, scoring=1500, calibration=256)
    known = {contents[i] for name in ("scoring", "calibration", "golden") for i in split[name]}
    reviews = [sentence for _, sentence in rated if " ".join(sentence.lower().split()) not in known]
    documents = [halves(sentence) for sentence in reviews]
    tokenizer = cached_tokenizer(directory / "tokenizer.json", train_wordpiece, reviews, config.vocabulary)
    encoded = Samples.from_rows(encode(tokenizer, sentences, config.positions), labels)
    split = without_repeats(encoded, split)
    pairs, follows = next_sentence_pairs(documents)
    order = np.random.default_rng(0).permutation(len(pairs))
    pretraining = Samples.from_rows(encode(tokenizer, pairs, config.positions), follows).take(order)
    return Dataset(
        train=encoded.take(split["train"]),
        calibration=encoded.take(split["calibration"]),
        scoring=encoded.take(split["scoring"]),
        golden=encoded.take(split["golden"]),
        labels=SENTIMENTS,
        preprocessing={"tokenizer": "tokenizer.json", "max_length": config.positions},
        sources=(SENTENCES,),
        baselines={"majority_accuracy": majority_accuracy(labels[split["train"]], labels[split["scoring"]])},
        pretraining=(pretraining.take(slice(256, None)), pretraining.take(slice(256))),
    )


def mask_tokens(
    input_ids: Tensor, eligible: Tensor, vocabulary: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Hide 15 % of the `eligible` (B,S) tokens: 80 % of them as [MASK], 10 % as any token, 10 % not at all.

    Returns the new `input_ids` (B,S) and which tokens must be told (B,S) bool.
    """
    chance = torch.rand(2, *input_ids.shape, generator=generator)
    masked = (chance[0] < 0.15) & eligible
    strangers = torch.randint(len(SPECIAL_TOKENS), vocabulary, input_ids.shape, generator=generator)
    hidden = torch.where(masked & (chance[1] < 0.8), MASK_TOKEN, input_ids)
    return torch.where(masked & (chance[1] >= 0.9), strangers, hidden), masked


def trimmed(inputs: Inputs) -> dict[str, Tensor]:
    """Cut the columns that are padding in every row: they cost time and change nothing."""
    length = int(inputs["attention_mask"].sum(dim=1).max())
    return {name: tensor[:, :length] for name, tensor in inputs.items()}


def pretraining_objective(
    module: nn.Module, inputs: Inputs, labels: Tensor, loss: Loss, generator: torch.Generator
) -> Tensor:
    """Mean loss of the masked words plus mean loss of the sentence order."""
    assert isinstance(module, BertForPreTraining), "with_pretraining_heads wraps what this objective trains"
    inputs = trimmed(inputs)
    original = inputs["input_ids"]
    eligible = original >= len(SPECIAL_TOKENS)
    input_ids, masked = mask_tokens(original, eligible, module.bias.numel(), generator)
    words, follows = module(**{**inputs, "input_ids": input_ids}, masked=masked)
    return loss(words, original[masked]) + loss(follows, labels)


def pretraining_rows(dataset: Dataset) -> tuple[Samples, Samples]:
    assert dataset.pretraining is not None, "data() above provides them"
    return dataset.pretraining


def with_pretraining_heads(classifier: nn.Module) -> nn.Module:
    """The same encoder under the heads of pre-training: what it learns stays when they are gone."""
    assert isinstance(classifier, BertClassifier)
    return BertForPreTraining(classifier.config, classifier.bert)


def recipe(pretraining: int, fine_tuning: int, *, learning_rate: float) -> Recipe:
    return Recipe(
        data,
        (
            Stage(
                "pre-training",
                Optimization(pretraining, batch_size=32),
                pretraining_objective,
                rows=pretraining_rows,
                wrap=with_pretraining_heads,
            ),
            Stage(
                "fine-tuning",
                Optimization(fine_tuning, batch_size=32, learning_rate=learning_rate),
                augmented(lambda inputs, _: trimmed(inputs)),
            ),
        ),
    )


FAMILY = Family(
    name="bert",
    task="text-classification",
    metric="accuracy",
    presets={
        "tiny": BertConfig(vocabulary=512, positions=16, width=16, layers=1, heads=2),
        "reference": BertConfig(vocabulary=8000, positions=64, width=128, layers=2, heads=4, dropout=0.3),
        "base": BertConfig(),
    },
    build=BertClassifier,
    signature=signature,
    recipes={"tiny": recipe(40, 120, learning_rate=1e-2), "reference": recipe(200, 450, learning_rate=1.5e-3)},
)
