"""Generation, token by token: the exported decoder with its cache against PyTorch's own greedy continuation.

Equal logits at every shape do not yet say that a loop over them is right: positions and the cache of padded rows show
only over many steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgeai.comparison import scale_of
from edgeai.eager import evaluate, restore, to_array
from edgeai.errors import VerificationError
from edgeai.exporting.decoder import BATCH, PAST, TOTAL, DecoderGraph
from edgeai.progress import SILENT, Progress
from edgeai.runtime.engine import Engine
from edgeai.spec import Array
from edgeai.verification import EXACT

TOKENS = 64
PROMPTS = ((1,), (7,), (32,), (3, 8, 13))  # lengths of the rows of each batch; shorter rows are padded on the left


@dataclass(frozen=True)
class Generated:
    """How many tokens were compared, after prompts of these lengths; `ties` were equal but for rounding."""

    tokens: int
    prompts: tuple[tuple[int, ...], ...]
    ties: int

    @property
    def summary(self) -> str:
        """One line."""
        ties = f", {self.ties} of them ties" if self.ties else ""
        lengths = ", ".join("+".join(map(str, row)) for row in self.prompts)
        return f"{self.tokens} greedy tokens are PyTorch's own after prompts of {lengths} tokens{ties}"

    def to_json(self) -> dict[str, object]:
        return {"tokens": self.tokens, "prompts": [list(lengths) for lengths in self.prompts], "ties": self.ties}


def prove_greedy(
    graph: DecoderGraph, engine: Engine, *, tokens: int = TOKENS, seed: int = 0, progress: Progress = SILENT
) -> Generated:
    """Continue random prompts by `tokens` tokens on both sides. Raises VerificationError at the first other token.

    A token whose logit PyTorch itself puts within rounding of its best one is a tie: counted, and PyTorch's is taken.
    """
    random = np.random.default_rng(seed)
    ids_spec = engine.signature.inputs[0]
    positions = engine.signature.axis(TOTAL).maximum
    tokens = min(tokens, positions - 1)
    widest = engine.signature.axis(BATCH).maximum
    prompts = tuple(
        dict.fromkeys(tuple(min(length, positions - tokens) for length in row) for row in PROMPTS if len(row) <= widest)
    )
    ties = 0
    with progress.task("proving generation", len(prompts)) as advance:
        for lengths in prompts:
            advance(note=f"prompts of {' and '.join(map(str, lengths))} tokens")
            ids, mask = _padded(lengths, ids_spec.high or 2, random)
            expected = reference_logits(graph, ids, mask, tokens)
            chosen = expected.argmax(-1)  # (B, tokens)
            for step, logits in enumerate(_answers(engine, ids, mask, chosen)):
                ties += _compare(expected[:, step], logits, step, lengths)
    return Generated(tokens, prompts, ties)


@torch.inference_mode()
def reference_logits(graph: DecoderGraph, ids: Array, mask: Array, tokens: int) -> Array:
    """Logits (B, tokens, V) of PyTorch's greedy continuation: the model's own `greedy`, or full passes, uncached."""
    flags = evaluate(graph)
    try:
        own: Callable[[Tensor, Tensor, int], Tensor] = getattr(graph.model, "greedy", None) or _uncached(graph)
        return to_array(own(torch.from_numpy(ids), torch.from_numpy(mask), tokens))
    finally:
        restore(flags)


def _uncached(graph: DecoderGraph) -> Callable[[Tensor, Tensor, int], Tensor]:
    def greedy(ids: Tensor, mask: Tensor, steps: int) -> Tensor:
        rows = []
        for _ in range(steps):
            logits = graph.model(ids, mask, None)[0][:, -1]
            rows.append(logits)
            ids = torch.cat((ids, logits.argmax(-1, keepdim=True)), 1)
            mask = torch.cat((mask, torch.ones_like(mask[:, :1])), 1)
        return torch.stack(rows, dim=1)

    return greedy


def _padded(lengths: tuple[int, ...], vocabulary: int, random: np.random.Generator) -> tuple[Array, Array]:
    """Random prompts (B, S), padded on the left, and their mask."""
    longest = max(lengths)
    mask = (np.arange(longest) >= longest - np.array(lengths)[:, None]).astype(np.int64)
    return random.integers(0, vocabulary, mask.shape) * mask, mask


def _answers(engine: Engine, ids: Array, mask: Array, chosen: Array) -> Iterator[Array]:
    """Logits (B, V) of each step: the prompt first, then one token at a time, `chosen` (B, tokens) being fed."""
    empty = {BATCH: len(ids), PAST: 0}
    past: Mapping[str, Array] = {
        spec.name: np.zeros([axis if isinstance(axis, int) else empty[axis] for axis in spec.shape], spec.dtype)
        for spec in engine.signature.inputs[2:]
    }
    for step in range(chosen.shape[1]):
        answer = engine.run({"input_ids": ids, "attention_mask": mask, **past})
        yield answer["logits"][:, -1]
        past = {name: answer[name.replace("past_key_values", "present")] for name in past}
        ids = chosen[:, step : step + 1]
        mask = np.concatenate((mask, np.ones_like(ids)), 1)


def _compare(expected: Array, actual: Array, step: int, lengths: tuple[int, ...]) -> int:
    """The number of ties among the rows. Raises VerificationError for a row whose best token is another."""
    best, ours = expected.argmax(-1), actual.argmax(-1)
    scale = scale_of(expected)
    ties = 0
    for row in np.flatnonzero(best != ours):
        short = float(expected[row, best[row]] - expected[row, ours[row]])
        if not short <= 2 * EXACT.verified * max(scale, abs(float(expected[row, best[row]]))):
            of_batch = f", row {row} of {len(lengths)}" if len(lengths) > 1 else ""
            raise VerificationError(
                f"generated token {step} after a prompt of {lengths[row]} tokens{of_batch} is {ours[row]}, "
                f"PyTorch's is {best[row]} (whose logit is higher by {short:.3g})"
            )
        ties += 1
    return ties
