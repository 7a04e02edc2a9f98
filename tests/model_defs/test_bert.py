from __future__ import annotations

import torch

from model_defs.bert import (
    MASK_TOKEN,
    BertClassifier,
    BertConfig,
    BertForPreTraining,
    mask_tokens,
    pretraining_objective,
    trimmed,
    with_pretraining_heads,
)
from model_defs.recipe import cross_entropy

CONFIG = BertConfig(vocabulary=60, positions=16, width=16, layers=2, heads=2)


def classifier() -> BertClassifier:
    torch.manual_seed(0)
    module = BertClassifier(CONFIG).eval()
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return module


def inputs(length: int = 12, real: int = 7) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.zeros(4, length, dtype=torch.int64)
    mask[:, :real] = 1
    ids = torch.randint(5, 60, (4, length), generator=generator)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


def test_what_is_masked_changes_nothing_and_what_is_not_does() -> None:
    module, given = classifier(), inputs()
    logits = module(**given)
    padding, content = (given["input_ids"].clone() for _ in range(2))
    padding[:, 7:] = 9
    content[:, 3] = 9
    assert torch.allclose(module(**{**given, "input_ids": padding}), logits, atol=1e-6)
    assert not torch.allclose(module(**{**given, "input_ids": content}), logits, atol=1e-4)
    everything = torch.ones_like(given["attention_mask"])
    assert not torch.allclose(module(**{**given, "attention_mask": everything}), logits, atol=1e-4)


def test_cutting_padding_changes_nothing() -> None:
    module, given = classifier(), inputs()
    assert trimmed(given)["input_ids"].shape == (4, 7)
    assert torch.allclose(module(**trimmed(given)), module(**given), atol=1e-6)


def test_segments_and_order_matter() -> None:
    module, given = classifier(), inputs()
    logits = module(**given)
    assert not torch.allclose(module(**{**given, "token_type_ids": torch.ones_like(given["input_ids"])}), logits)
    swapped = given["input_ids"].clone()
    swapped[:, [1, 2]] = swapped[:, [2, 1]]
    assert not torch.allclose(module(**{**given, "input_ids": swapped}), logits, atol=1e-4)


def test_masking_takes_its_share_of_eligible_tokens_only() -> None:
    ids = torch.randint(5, 60, (200, 100), generator=torch.Generator().manual_seed(0))
    eligible = torch.ones_like(ids, dtype=torch.bool)
    eligible[:, ::2] = False
    hidden, masked = mask_tokens(ids, eligible, 60, torch.Generator().manual_seed(0))
    assert not masked[~eligible].any()
    assert torch.equal(hidden[~masked], ids[~masked])
    assert 0.14 < masked[eligible].float().mean() < 0.16
    assert 0.77 < (hidden[masked] == MASK_TOKEN).float().mean() < 0.83
    assert 0.08 < (hidden[masked] == ids[masked]).float().mean() < 0.13


def test_pretraining_heads_share_the_encoder_and_learn_through_it() -> None:
    module = classifier()
    wrapped = with_pretraining_heads(module)
    assert isinstance(wrapped, BertForPreTraining)
    assert wrapped.bert is module.bert
    labels = torch.tensor([0, 1, 0, 1])
    pretraining_objective(wrapped, inputs(), labels, cross_entropy, torch.Generator().manual_seed(0)).backward()
    assert module.bert.token.weight.grad is not None
    assert wrapped.follows.weight.grad is not None
    assert module.head.weight.grad is None
