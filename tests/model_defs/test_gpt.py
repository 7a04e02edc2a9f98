from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model_defs import FAMILIES
from model_defs.gpt import Gpt, GptConfig, causal_mask

CONFIG = GptConfig(vocabulary=50, positions=32, width=16, layers=2, heads=2, dropout=0.0)


@pytest.fixture
def gpt() -> Gpt:
    torch.manual_seed(0)
    module = Gpt(CONFIG).eval()
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # lively enough for differences to show
    return module


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(0, 50, (3, 10), generator=torch.Generator().manual_seed(1))


def same(left: Tensor, right: Tensor) -> bool:
    return torch.allclose(left, right, atol=1e-5)


@pytest.mark.parametrize("cut", [1, 4, 9])
def test_continuing_from_the_cache_equals_one_pass(gpt: Gpt, ids: Tensor, cut: int) -> None:
    whole, present = gpt(ids)
    first, past = gpt(ids[:, :cut])
    second, later = gpt(ids[:, cut:], torch.ones_like(ids), past)
    assert same(torch.cat((first, second), dim=1), whole)
    assert all(same(a, b) for left, right in zip(later, present, strict=True) for a, b in zip(left, right, strict=True))
    assert present[0][0].shape == (3, 2, 10, 8)


def test_an_empty_cache_equals_none(gpt: Gpt, ids: Tensor) -> None:
    empty = [(torch.zeros(3, 2, 0, 8), torch.zeros(3, 2, 0, 8))] * 2
    assert same(gpt(ids, torch.ones_like(ids), empty)[0], gpt(ids)[0])


@pytest.mark.parametrize("padding", [1, 5])
def test_left_padding_changes_no_answer(gpt: Gpt, ids: Tensor, padding: int) -> None:
    filler = torch.full((3, padding), 49)
    mask = torch.cat((torch.zeros_like(filler), torch.ones_like(ids)), dim=1)
    padded, past = gpt(torch.cat((filler, ids), dim=1), mask)
    assert padded.isfinite().all()
    assert same(padded[:, padding:], gpt(ids)[0])
    next_id = torch.full((3, 1), 7)
    ones = torch.ones_like(next_id)
    continued, _ = gpt(next_id, torch.cat((mask, ones), dim=1), past)
    assert same(continued, gpt(torch.cat((ids, next_id), dim=1))[0][:, -1:])


def test_the_future_is_not_seen(gpt: Gpt, ids: Tensor) -> None:
    changed = ids.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 50
    before, after = gpt(ids)[0], gpt(changed)[0]
    assert same(before[:, :6], after[:, :6])
    assert not same(before[:, 6:], after[:, 6:])


def test_the_mask_joins_causality_and_padding() -> None:
    mask = causal_mask(torch.tensor([[0, 1, 1, 1]]), queries=2, cached=2)
    assert mask[0, 0].tolist() == [[False, True, True, False], [False, True, True, True]]
    alone = causal_mask(torch.tensor([[0, 0, 1]]), queries=3, cached=0)
    assert alone[0, 0].tolist() == [[True, False, False], [False, True, False], [False, False, True]]


def test_torch_can_export_it_with_every_axis_dynamic(gpt: Gpt, ids: Tensor) -> None:
    _, past = gpt(ids[:, :6])
    any_size = torch.export.Dim.DYNAMIC
    cache = {0: any_size, 2: any_size}
    shapes = ({0: any_size, 1: any_size}, {0: any_size, 1: any_size}, [(cache, cache)] * 2)
    arguments = (ids[:, 6:], torch.ones_like(ids), list(past))
    program = torch.export.export(gpt, arguments, dynamic_shapes=shapes).module()
    _, other = gpt(ids[:2, :3])
    mask = torch.ones(2, 8, dtype=torch.int64)
    assert same(program(ids[:2, 3:8], mask, list(other))[0], gpt(ids[:2, 3:8], mask, other)[0])


def test_the_head_is_tied_to_the_embedding() -> None:
    names = dict(FAMILIES["gpt"].build(CONFIG).named_parameters())
    assert not any("head" in name for name in names)
