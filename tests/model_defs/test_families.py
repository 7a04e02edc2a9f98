from __future__ import annotations

import pytest
import torch

from edgeai.errors import EdgeAIError, UsageError
from edgeai.spec import Signature
from model_defs import FAMILIES, NAMES, family
from model_defs.families import example, wake
from model_defs.recipe import logits_of

MILLION = 1_000_000


def test_families_are_listed_in_order_and_named_after_their_files() -> None:
    assert list(FAMILIES) == list(NAMES)
    assert [FAMILIES[name].name for name in NAMES] == list(NAMES)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="resnet"):
        family("resnt")
    with pytest.raises(UsageError, match="tiny, reference, base"):
        family("mlp").config("huge")
    with pytest.raises(UsageError, match="no training recipe"):
        family("mlp").recipe("base")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch", [2, 5])
def test_forward_keeps_to_the_signature(name: str, batch: int) -> None:
    kind = FAMILIES[name]
    config = kind.config("tiny")
    signature: Signature = kind.signature(config)
    inputs = example(signature, batch=batch)
    signature.check({name: tensor.numpy() for name, tensor in inputs.items()})
    logits = logits_of(kind.build(config).eval()(**inputs))
    sizes = {"batch": batch} | {
        axis: size
        for spec, tensor in zip(signature.inputs, inputs.values(), strict=True)
        for axis, size in zip(spec.shape, tensor.shape, strict=True)
        if isinstance(axis, str)
    }
    (output,) = signature.outputs
    assert logits.shape == tuple(sizes[axis] if isinstance(axis, str) else axis for axis in output.shape)
    assert str(logits.dtype) == f"torch.{output.dtype}"


@pytest.mark.parametrize("name", NAMES)
def test_a_shorter_sequence_fits_too(name: str) -> None:
    kind = FAMILIES[name]
    signature = kind.signature(kind.config("tiny"))
    if all(axis.name == "batch" for axis in signature.axes):
        assert all(isinstance(size, int) for spec in signature.inputs for size in spec.shape[1:])
        return
    inputs = {name: tensor[:, :3] for name, tensor in example(signature).items()}
    assert logits_of(kind.create("tiny")(**inputs)).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_created_modules_are_alive_and_repeatable(name: str) -> None:
    kind = FAMILIES[name]
    inputs = example(kind.signature(kind.config("tiny")), seed=7)
    module = kind.create("tiny", seed=3)
    logits = logits_of(module(**inputs))
    assert not module.training
    assert logits.std(dim=0).mean() > 1e-2
    assert torch.equal(logits, logits_of(kind.create("tiny", seed=3)(**inputs)))
    assert not torch.equal(logits, logits_of(kind.create("tiny", seed=4)(**inputs)))


def test_dead_modules_are_refused() -> None:
    module = torch.nn.Linear(4, 2)
    torch.nn.init.zeros_(module.weight)
    with pytest.raises(EdgeAIError, match="dead"):
        wake(module, {"input": torch.randn(8, 4)})


def test_wake_gives_batch_norm_the_statistics_of_its_inputs() -> None:
    norm = torch.nn.BatchNorm1d(3)
    inputs = torch.randn(64, 3) * 5 + 2
    wake(norm, {"input": inputs})
    assert torch.allclose(norm.running_mean, inputs.mean(dim=0))
    assert torch.allclose(norm.running_var, inputs.var(dim=0))
    assert norm.momentum == 0.1


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("resnet", 25_557_032, 25_557_032),  # torchvision's ResNet-50
        ("gpt", 124_439_808, 124_439_808),  # GPT-2 small
        ("bert", 109 * MILLION, 110 * MILLION),  # BERT-base with pooler and head
        ("mlp", 5 * MILLION, 7 * MILLION),
        ("cnn", 30 * MILLION, 40 * MILLION),
        ("transformer", 19 * MILLION, 21 * MILLION),
    ],
)
def test_base_presets_have_their_known_size(name: str, low: int, high: int) -> None:
    with torch.device("meta"):
        module = FAMILIES[name].build(FAMILIES[name].config("base"))
    assert low <= sum(parameter.numel() for parameter in module.parameters()) <= high
