"""Twelve planted lies: graphs that are really wrong, beside the module that they claim to be.

Each is a file that torch wrote, from a module that differs in one place. The verdict must say in words what it is.
"""

import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.onnx import TrainingMode

from edgeai.agreement import Agreement
from edgeai.eager import EagerEngine
from edgeai.exporting import export
from edgeai.probing import probe_feeds
from edgeai.runtime.loading import load
from edgeai.spec import Axis, Signature, TensorSpec
from edgeai.verification import verify

DENSE = Signature((TensorSpec("x", "float32", ("batch", 12)),), (), (Axis("batch", 1, 32),))
TEXT = Signature(
    (TensorSpec("ids", "int64", ("batch", "seq"), 0, 50), TensorSpec("mask", "int64", ("batch", "seq"), 0, 2)),
    (),
    (Axis("batch", 1, 8), Axis("seq", 1, 32)),
)


@pytest.fixture(autouse=True)
def _tracer() -> Iterator[None]:
    """The TorchScript tracer drops Python's trace function, and coverage with it."""
    before = sys.gettrace()
    yield
    sys.settrace(before)


@pytest.fixture
def judge(tmp_path: Path) -> "Judge":
    return Judge(tmp_path / "lie.onnx")


class Judge:
    """Writes the lying module as torch's tracer writes it, asking nobody, and holds it against the honest one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(
        self,
        honest: nn.Module,
        lying: nn.Module,
        signature: Signature = DENSE,
        *,
        outputs: Sequence[str] = ("y",),
        training: TrainingMode = TrainingMode.EVAL,
    ) -> Agreement:
        if lying is not honest:
            lying.load_state_dict(honest.state_dict())
        feed = probe_feeds(signature, count=1)[0].feed
        axes = {spec.name: {i: a for i, a in enumerate(spec.shape) if isinstance(a, str)} for spec in signature.inputs}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                lying, tuple(torch.from_numpy(array) for array in feed.values()), str(self.path), dynamo=False,
                input_names=list(feed), output_names=list(outputs), dynamic_axes=axes, opset_version=17,
                training=training, do_constant_folding=False,
            )  # fmt: skip
        candidate = load(self.path, ep="cpu")
        named = Signature(signature.inputs, candidate.signature.outputs, signature.axes)
        with EagerEngine(honest, named) as reference:
            agreement = verify(reference, candidate, signature=named)
        candidate.close()
        return agreement


def said(agreement: Agreement) -> str:
    """Why it failed, all of it."""
    assert agreement.verdict == "failed", agreement.summary
    return " | ".join(finding.text for finding in agreement.findings if finding.severity == "failed")


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return y


def test_an_honest_graph_passes(judge: Judge) -> None:
    agreement = judge(Dense(), Dense())
    assert agreement.verdict == "verified" and agreement.proven() == {"batch": (1, 32)}


class BakedBatch(Dense):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(2, 12))


def test_a_baked_batch(judge: Judge) -> None:
    assert said(judge(Dense(), BakedBatch())).startswith("axis batch is baked at 2: the candidate is right at no other")


class Pooled(nn.Module):
    """Embeddings with positions, averaged where the mask is 1."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.positions = nn.Embedding(50, 8), nn.Embedding(40, 8)

    def place(self, ids: Tensor) -> Tensor:
        return torch.arange(ids.shape[1])

    def mean(self, states: Tensor, mask: Tensor) -> Tensor:
        return (states * mask).sum(1) / mask.sum(1)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states: Tensor = self.words(ids) + self.positions(self.place(ids))
        return self.mean(states, mask[..., None].float())


class BakedPositions(Pooled):
    def place(self, ids: Tensor) -> Tensor:
        return torch.arange(int(ids.shape[1]))


class BakedLength(Pooled):
    def mean(self, states: Tensor, mask: Tensor) -> Tensor:
        return (states * mask).sum(1) / (mask.mean(1) * float(mask.shape[1]))


@pytest.mark.parametrize("lying", [BakedPositions, BakedLength])
def test_a_baked_sequence_whether_it_refuses_other_lengths_or_is_wrong_there(judge: Judge, lying: type[Pooled]) -> None:
    assert said(judge(Pooled(), lying(), TEXT)).startswith("axis seq is baked at 5: the candidate is right at no other")


class Dropping(Dense):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(x, 0.3, self.training))


def test_dropout_left_on(judge: Judge) -> None:
    reason = said(judge(Dropping(), Dropping().train(), training=TrainingMode.TRAINING))
    assert reason.startswith("output y of the candidate changes from run to run on the same feed: it is random")


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.norm = nn.Linear(12, 4), nn.BatchNorm1d(4)
        self.norm.running_mean = torch.tensor([0.5, -1.0, 2.0, 0.0])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.linear(x))
        return y


def test_batch_norm_in_training_mode(judge: Judge) -> None:
    reason = said(judge(Normed(), Normed().train(), training=TrainingMode.TRAINING))
    assert reason.startswith("output y of the candidate mixes the rows of a batch, as batch norm in training mode does")


class Two(Dense):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(x), x[:, :4] * 3


class Swapped(Two):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        first, second = super().forward(x)
        return second, first


def test_swapped_outputs(judge: Judge) -> None:
    reason = said(judge(Two(), Swapped(), outputs=["logits", "scores"]))
    assert reason.startswith("output logits: outputs logits and scores are swapped: logits[")


class Maskless(Pooled):
    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return super().forward(ids, mask * 0 + 1)


def test_a_mask_ignored(judge: Judge) -> None:
    reason = said(judge(Pooled(), Maskless(), TEXT))
    assert reason.startswith(
        "input mask is ignored by the candidate: changed alone, it moves output y of the reference"
    )


class Hashed(nn.Module):
    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return (ids * 60_000 + mask) * 60_000


class Narrowed(Hashed):
    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return super().forward(ids.int(), mask.int()).long()


def test_int64_narrowed(judge: Judge) -> None:
    reason = said(judge(Hashed(), Narrowed(), TEXT))
    assert reason.startswith("output y: its values are narrowed to 32 bits: y[")


class Constant(Dense):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.ones_like(x))


def test_a_constant_output(judge: Judge) -> None:
    assert "vacuous: output y of the candidate does not depend on the input" in said(judge(Dense(), Constant()))


class Noisy(Dense):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + 5e-6 * torch.randn_like(y)


def test_a_nondeterministic_operator_whose_noise_is_far_below_the_tolerance(judge: Judge) -> None:
    agreement = judge(Dense(), Noisy())
    assert agreement.error < 2e-4
    assert said(agreement).startswith(
        "output y of the candidate changes from run to run on the same feed: it is random"
    )


class InPlace(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x.mul_(2)
        return x + 1, x


class Aliased(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * 2 + 1, x


def test_an_output_that_is_an_alias_of_an_input(judge: Judge) -> None:
    reason = said(judge(InPlace(), Aliased(), outputs=["y", "kept"]))
    assert reason.startswith("output kept: it is input x unchanged: kept[")


class Island(Dense):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(((x.double() + 1e8) - 1e8).float())


class Lost(Dense):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x + 1e8) - 1e8)


def test_a_float64_island_lost(judge: Judge) -> None:
    agreement = judge(Island(), Lost())
    worst = agreement.outputs[0]
    assert f"y[{worst.index[0]}, {worst.index[1]}] {worst.reference:.6g} became {worst.candidate:.6g}" in said(
        agreement
    )
    assert worst.error > 0.1


class Half(Dense):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).half().float()


def test_a_precision_lost_is_named_where_the_values_tell_it(judge: Judge) -> None:
    agreement = judge(Dense(), Half())
    assert agreement.verdict == "degraded"
    assert agreement.findings[0].text.startswith("output y: its values are float16 ones: float32 is lost: y[")


class OffByOne(Pooled):
    def place(self, ids: Tensor) -> Tensor:
        return super().place(ids) + 1


def test_an_off_by_one_position(judge: Judge) -> None:
    agreement = judge(Pooled(), OffByOne(), TEXT)
    worst = agreement.outputs[0]
    values = f"y[{worst.index[0]}, {worst.index[1]}] {worst.reference:.6g} became {worst.candidate:.6g}"
    assert values in said(agreement) and worst.feed in said(agreement)


class States(Pooled):
    def mean(self, states: Tensor, mask: Tensor) -> Tensor:
        return states * mask


class Shifted(States):
    def mean(self, states: Tensor, mask: Tensor) -> Tensor:
        return torch.roll(super().mean(states, mask), 1, 1)


def test_states_that_stand_one_position_too_late(judge: Judge) -> None:
    reason = said(judge(States(), Shifted(), TEXT))
    assert reason.startswith("output y: it is the reference's, off by one position along axis 1: y[")


class Itself(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x[:, ::2]


@pytest.mark.parametrize("module", [InPlace(), Itself()])
def test_outputs_that_share_memory_with_the_input_are_exported_right(module: nn.Module, tmp_path: Path) -> None:
    x = torch.arange(24.0).reshape(2, 12)
    before = x.clone()
    artifact = export(module, {"x": x}, out=tmp_path / "m.onnx", dynamic={"x": {0: "batch"}})
    assert artifact.lineage[0].options["verified"]["axes"] == {"batch": (1, 64)}
    assert torch.equal(x, before)
    expected = module(x.clone())
    with load(artifact.path, ep="cpu") as session:
        for array, tensor in zip(session.run({"x": before.numpy()}).values(), expected, strict=True):
            np.testing.assert_array_equal(array, tensor.numpy())
