"""One graph for prefill and decode, proven token by token against the module without a cache."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.caching import with_empty_cache
from edgeai.errors import SourceError
from edgeai.exporting import DECODER_OPSET, DecoderGraph, decoder_signature, export, from_module
from edgeai.runtime.engine import Engine
from edgeai.samples import Samples
from edgeai.spec import Array, Axis, Signature

VOCABULARY, POSITIONS, WIDTH, HEADS, LAYERS = 61, 96, 32, 4, 2
Past = tuple[tuple[Tensor, Tensor], ...]


class TinyLM(nn.Module):
    """A causal language model written from scratch: learned positions, pre-norm."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, WIDTH)
        self.position = nn.Embedding(POSITIONS, WIDTH)
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(LAYERS))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 64), nn.GELU(), nn.Linear(64, WIDTH), nn.Dropout(0.3)) for _ in range(LAYERS)
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, past: Past | None = None) -> tuple[Tensor, Past]:
        queries, total = input_ids.shape[1], attention_mask.shape[1]
        cached = total - queries
        place = (attention_mask.cumsum(1) - 1).clamp(min=0)[:, cached:]
        x = self.token(input_ids) + self.position(place)
        query, key = torch.arange(queries)[:, None] + cached, torch.arange(total)[None, :]
        seen = ((key <= query) & (attention_mask[:, None, None, :] != 0)) | (key == query)  # (B,1,S,T)
        present = []
        for layer, (qkv, mlp) in enumerate(zip(self.qkv, self.mlp, strict=True)):
            q, k, v = (
                p.unflatten(-1, (HEADS, -1)).transpose(1, 2) for p in qkv(F.layer_norm(x, (WIDTH,))).chunk(3, -1)
            )
            if past:
                k, v = torch.cat((past[layer][0], k), 2), torch.cat((past[layer][1], v), 2)
            x = x + F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).flatten(2)
            x = x + mlp(x)
            present.append((k, v))
        return self.head(self.norm(x)), tuple(present)


@pytest.fixture(scope="module")
def model() -> TinyLM:
    torch.manual_seed(0)
    return TinyLM()


@pytest.fixture(scope="module")
def signature(model: TinyLM) -> Signature:
    return decoder_signature(model, vocabulary=VOCABULARY, positions=POSITIONS)


@pytest.fixture(scope="module")
def artifact(model: TinyLM, signature: Signature, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    source = from_module(DecoderGraph(model), None, signature=signature)
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (8, 12))
    return export(source, Samples.from_rows({"input_ids": ids}), out=tmp_path_factory.mktemp("lm") / "lm.onnx")


@pytest.fixture(scope="module")
def session(artifact: Artifact) -> Iterator[Engine]:
    from edgeai.runtime.loading import load

    opened = load(artifact.path, ep="cpu")
    yield opened
    opened.close()


def test_the_signature_names_what_generation_needs(signature: Signature) -> None:
    shapes = {spec.name: spec.shape for spec in (*signature.inputs, *signature.outputs)}
    assert shapes["attention_mask"] == ("batch", "past+sequence")
    assert shapes["past_key_values.1.value"] == ("batch", HEADS, "past", WIDTH // HEADS)
    assert shapes["present.0.key"] == ("batch", HEADS, "past+sequence", WIDTH // HEADS)
    assert shapes["logits"] == ("batch", "sequence", VOCABULARY)
    assert signature.axis("past") == Axis("past", 0, POSITIONS - 1)


def test_the_graph_uses_the_attention_operator_and_proves_an_empty_past(artifact: Artifact) -> None:
    graph = modelfile.load(artifact.path)
    assert graph.opset_imports[""] == DECODER_OPSET
    assert sum(node.op_type == "Attention" for node in graph.graph) == LAYERS
    proven = artifact.lineage[0].options["verified"]["axes"]
    assert proven["past"] == (0, POSITIONS - 1) and proven["sequence"] == (1, POSITIONS)
    assert artifact.signature is not None
    assert artifact.signature.outputs[1].shape == ("batch", HEADS, "past+sequence", WIDTH // HEADS)


def greedy_reference(model: TinyLM, ids: Array, mask: Array, tokens: int) -> Array:
    """Every step runs the whole text again: no cache can be wrong."""
    text, seen = torch.from_numpy(ids), torch.from_numpy(mask)
    model.eval()
    with torch.inference_mode():
        for _ in range(tokens):
            logits, _ = model(text, seen)
            text = torch.cat((text, logits[:, -1].argmax(-1, keepdim=True)), 1)
            seen = torch.cat((seen, torch.ones_like(seen[:, :1])), 1)
    generated: Array = text[:, ids.shape[1] :].numpy()
    return generated


def greedy_session(session: Engine, ids: Array, mask: Array, tokens: int) -> Array:
    """Prefill once with nothing cached, then one token at a time."""
    past = {
        spec.name: np.zeros((len(ids), HEADS, 0, WIDTH // HEADS), np.float32)
        for spec in session.signature.inputs
        if spec.name.startswith("past")
    }
    generated = []
    for _ in range(tokens):
        answer = session.run({"input_ids": ids, "attention_mask": mask, **past})
        ids = answer["logits"][:, -1].argmax(-1)[:, None]
        mask = np.concatenate((mask, np.ones_like(mask[:, :1])), 1)
        past = {name: answer[name.replace("past_key_values", "present")] for name in past}
        generated.append(ids)
    return np.concatenate(generated, 1)


@pytest.mark.parametrize("lengths", [(1,), (2,), (7,), (40,), (3, 9, 5), (1, 12, 2)])
def test_forty_greedy_tokens_are_pytorchs_own(model: TinyLM, session: Engine, lengths: tuple[int, ...]) -> None:
    generator = np.random.default_rng(sum(lengths))
    longest = max(lengths)
    ids = generator.integers(0, VOCABULARY, (len(lengths), longest))
    mask = (np.arange(longest) >= longest - np.array(lengths)[:, None]).astype(np.int64)  # padded on the left
    expected = greedy_reference(model, ids, mask, 40)
    np.testing.assert_array_equal(greedy_session(session, ids, mask, 40), expected)
    assert len(np.unique(expected)) > 3  # a model that repeats one token would prove little


def test_rows_of_ids_are_completed_with_a_full_mask_and_an_empty_cache(signature: Signature) -> None:
    labels = np.ones((4, 6), np.int64)
    rows = Samples.from_rows({"input_ids": np.zeros((4, 6), np.int64)}, labels)
    whole = with_empty_cache(rows, signature)
    assert whole.labels is labels
    assert whole.rows["attention_mask"].sum() == 24
    assert whole.rows["past_key_values.0.key"].shape == (4, HEADS, 0, WIDTH // HEADS)
    assert set(whole.names) == set(signature.input_names)


class NotCausal(nn.Module):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return input_ids


class OneKey(nn.Module):
    def forward(self, input_ids: Tensor, attention_mask: Tensor, past: object) -> tuple[Tensor, tuple[Tensor, ...]]:
        return torch.ones(2, 3, 5), (torch.ones(1),)


class Flipped(nn.Module):
    def forward(self, input_ids: Tensor, attention_mask: Tensor, past: object) -> tuple[Tensor, Past]:
        keys = torch.ones(2, 3, 4, 5)  # (B,T,H,D): heads behind time
        return torch.ones(2, 3, 5), ((keys, keys),)


@pytest.mark.parametrize("module", [NotCausal(), OneKey(), Flipped()])
def test_what_is_no_causal_language_model_is_told_what_one_is(module: nn.Module) -> None:
    with pytest.raises(SourceError, match=r"is not a causal language model.*must return \(logits, "):
        decoder_signature(module, vocabulary=5, positions=8)
    assert module.training
