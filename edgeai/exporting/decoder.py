"""Causal language models as one flat graph that serves both prefill (no past) and decode (one new token).

Letters in the shape comments: B batch, S new tokens, P cached tokens, T = P + S, H heads, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeai.errors import SourceError
from edgeai.spec import Axis, Signature, TensorSpec

# From opset 23 the exporter writes scaled dot-product attention as ONNX's own Attention operator.
DECODER_OPSET = 23
BATCH, SEQUENCE, PAST = "batch", "sequence", "past"
TOTAL = f"{PAST}+{SEQUENCE}"


class DecoderGraph(nn.Module):
    """Flat inputs `input_ids`, `attention_mask`, `past_key_values.{i}.key/.value`, and flat outputs.

    `model(input_ids (B,S), attention_mask (B,T), past)` returns logits (B,S,V) and `present`; `past` and `present`
    are one (key, value) a layer, each (B,H,P,D) and (B,H,T,D). P may be 0.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, *past: Tensor) -> dict[str, Tensor]:
        pairs = tuple(zip(past[0::2], past[1::2], strict=True))
        logits, present = self.model(input_ids, attention_mask, pairs)
        outputs = {"logits": logits}
        for index, (key, value) in enumerate(present):
            outputs |= {f"present.{index}.key": key, f"present.{index}.value": value}
        return outputs


@torch.inference_mode()
def decoder_signature(model: nn.Module, *, vocabulary: int, positions: int) -> Signature:
    """The signature of `DecoderGraph(model)`; layers, heads and head size are what one call of `model` shows.

    Raises SourceError if `model` does not answer with logits and a (key, value) for each layer.
    """
    training = model.training
    ids, mask = torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.int64)
    try:
        logits, present = model.eval()(ids, mask, None)
        shapes = {(key.shape, value.shape, key.dtype) for key, value in present}
        ((key_shape, value_shape, dtype),) = shapes
        heads, head_size = key_shape[1], key_shape[3]
        fits = key_shape == value_shape == (2, heads, 3, head_size) and logits.shape[:2] == (2, 3)
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise _refusal(model) from error
    finally:
        model.train(training)
    if not fits:
        raise _refusal(model)
    kind = str(dtype).removeprefix("torch.")
    cache = [(f"{layer}.{part}") for layer in range(len(present)) for part in ("key", "value")]
    past = [TensorSpec(f"past_key_values.{name}", kind, (BATCH, heads, PAST, head_size)) for name in cache]
    out = [TensorSpec(f"present.{name}", kind, (BATCH, heads, TOTAL, head_size)) for name in cache]
    return Signature(
        inputs=(
            TensorSpec("input_ids", "int64", (BATCH, SEQUENCE), low=0, high=vocabulary),
            TensorSpec("attention_mask", "int64", (BATCH, TOTAL), low=0, high=2),
            *past,
        ),
        outputs=(TensorSpec("logits", kind, (BATCH, SEQUENCE, logits.shape[-1])), *out),
        axes=(
            Axis(BATCH),
            Axis(SEQUENCE, 1, positions),
            Axis(PAST, 0, positions - 1),
            Axis(TOTAL, 1, positions),
        ),
    )


def _refusal(model: nn.Module) -> SourceError:
    return SourceError(
        f"{type(model).__name__} is not a causal language model that can be exported with a cache",
        hint="forward(input_ids, attention_mask, past) must return (logits, ((key, value), ...)), keys (B,H,T,D)",
    )
