"""Generation is proven token by token: a loop over the graph against PyTorch's own continuation."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeai.eager import EagerEngine
from edgeai.errors import VerificationError
from edgeai.exporting import DecoderGraph, decoder_signature
from edgeai.exporting.greedy import prove_greedy, reference_logits
from edgeai.spec import Array, Signature

VOCABULARY = 23


class Counter(nn.Module):
    """Says the token that follows the last one, more clearly the longer the text: a cache that is lost shows."""

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, past: tuple[tuple[Tensor, Tensor], ...] | None
    ) -> tuple[Tensor, tuple[tuple[Tensor, Tensor], ...]]:
        key = nn.functional.one_hot(input_ids, VOCABULARY).float()[:, None]  # (B,1,S,V)
        if past:
            key = torch.cat((past[0][0], key), 2)
        seen = key.cumsum(2)[:, 0, -input_ids.shape[1] :]  # (B,S,V)
        return seen.roll(1, -1) + 0.1 * attention_mask.sum() * key[:, 0, -input_ids.shape[1] :].roll(1, -1), (
            (key, key),
        )


class Lying:
    """An engine around the module, with one thing changed."""

    def __init__(self, engine: EagerEngine, change: str) -> None:
        self.engine, self.change = engine, change

    @property
    def signature(self) -> Signature:
        return self.engine.signature

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        answer = self.engine.run(feed)
        if self.change == "late token" and feed["attention_mask"].shape[1] == 40:
            answer["logits"] = -answer["logits"]
        if self.change == "second row" and len(feed["input_ids"]) == 3:
            answer["logits"][1] = np.roll(answer["logits"][1], 1, -1)
        if self.change == "rounding":
            answer["logits"] *= 1 + 1e-7
        return answer

    def close(self) -> None:
        self.engine.close()


@pytest.fixture
def graph() -> DecoderGraph:
    return DecoderGraph(Counter())


def engine(graph: DecoderGraph, change: str = "") -> Lying:
    signature = decoder_signature(graph.model, vocabulary=VOCABULARY, positions=128)
    return Lying(EagerEngine(graph, signature), change)


def test_a_true_decoder_is_proven(graph: DecoderGraph) -> None:
    found = prove_greedy(graph, engine(graph, "rounding"))
    assert (found.tokens, found.ties) == (64, 0)
    assert found.prompts == ((1,), (7,), (32,), (3, 8, 13))


@pytest.mark.parametrize(
    ("change", "said"),
    [("late token", "generated token 39 after a prompt of 1 tokens is"), ("second row", "8 tokens, row 1 of 3 is")],
)
def test_a_wrong_token_is_named(graph: DecoderGraph, change: str, said: str) -> None:
    with pytest.raises(VerificationError, match=f"{said} .*PyTorch's is"):
        prove_greedy(graph, engine(graph, change))


def test_short_contexts_shorten_the_proof(graph: DecoderGraph) -> None:
    signature = decoder_signature(graph.model, vocabulary=VOCABULARY, positions=10)
    found = prove_greedy(graph, EagerEngine(graph, signature))
    assert (found.tokens, found.prompts) == (9, ((1,), (1, 1, 1)))


def test_a_tie_is_counted_and_followed(graph: DecoderGraph) -> None:
    class Tied(nn.Module):
        def forward(self, input_ids: Tensor, attention_mask: Tensor, past: object) -> object:
            keys = torch.zeros(len(input_ids), 1, attention_mask.shape[1], 2)
            logits = torch.zeros(*input_ids.shape, VOCABULARY)
            logits[..., 3] = logits[..., 4] = 1.0
            return logits, ((keys, keys),)

    class Other(Lying):
        def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
            answer = self.engine.run(feed)
            answer["logits"][..., 4] += 1e-6
            return answer

    tied = DecoderGraph(Tied())
    signature = decoder_signature(tied.model, vocabulary=VOCABULARY, positions=66)
    assert prove_greedy(tied, Other(EagerEngine(tied, signature), "")).ties > 64
    assert reference_logits(tied, np.ones((1, 1), np.int64), np.ones((1, 1), np.int64), 2).shape == (1, 2, VOCABULARY)
