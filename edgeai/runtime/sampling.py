"""How the next token is chosen from logits. Pure numpy: one array and one random number in, one token id out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeai.errors import UsageError, VerificationError
from edgeai.spec import Array


@dataclass(frozen=True)
class Sampling:
    """Temperature 0 is greedy: the most likely token, of several equal ones the first.

    Otherwise: divide the logits by `temperature`, keep the `top_k` most likely tokens, keep of these the fewest that
    hold `top_p` of the probability (Holtzman et al., 2020, arXiv:1904.09751), and draw. The same seed draws the same.
    `repetition_penalty` comes first, with greedy choice too: it divides the positive logits of tokens that occurred
    already and multiplies their negative ones (Keskar et al., 2019, arXiv:1909.05858); 1 changes nothing.
    Raises UsageError for a value out of range, or a limit that greedy choice would ignore.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise UsageError(f"temperature = {self.temperature}, must be 0 (greedy) or a positive number")
        if self.top_k is not None and self.top_k < 1:
            raise UsageError(f"top_k = {self.top_k}, must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UsageError(f"top_p = {self.top_p}, must be above 0 and at most 1")
        if not 0 < self.repetition_penalty < math.inf:
            raise UsageError(f"repetition_penalty = {self.repetition_penalty}, must be a positive number")
        if self.seed is not None and self.seed < 0:
            raise UsageError(f"seed = {self.seed}, must not be negative")
        if self.temperature == 0 and (self.top_k is not None or self.top_p is not None):
            raise UsageError("top_k and top_p do nothing at temperature 0", hint="set a temperature, such as 0.8")

    def random(self, row: int = 0) -> np.random.Generator:
        """The random numbers of one text; each row of a batch has its own."""
        return np.random.default_rng(None if self.seed is None else [self.seed, row])

    def choose(self, logits: Array, seen: Sequence[int], random: np.random.Generator) -> int:
        """Token id from logits (vocab,), float of any width, after the tokens `seen`.

        Raises VerificationError for logits whose largest is NaN or infinite, which no healthy model gives.
        """
        if self.repetition_penalty != 1:
            logits = self._penalized(logits, seen)
        if not np.isfinite(logits.max()):
            raise VerificationError(
                f"the model's logits hold {logits.max()}", hint="verify the model against its reference"
            )
        if self.temperature == 0:
            return int(logits.argmax())
        ids, cumulative = self._kept(logits)
        drawn = int(np.searchsorted(cumulative, random.random() * cumulative[-1], side="right"))
        return int(ids[min(drawn, len(ids) - 1)])

    def _penalized(self, logits: Array, seen: Sequence[int]) -> Array:
        logits, ids = logits.astype(np.float64), np.unique(np.asarray(seen, np.int64))
        before = logits[ids]
        logits[ids] = np.where(before > 0, before / self.repetition_penalty, before * self.repetition_penalty)
        return logits

    def _kept(self, logits: Array) -> tuple[Array, Array]:
        """The tokens that may be drawn, most likely first, and their probabilities added up."""
        count = min(self.top_k or len(logits), len(logits))
        # Only what is at least as likely as the k-th is sorted: a vocabulary is large, k is not.
        least = np.partition(logits, -count)[-count]
        ids = np.flatnonzero(logits >= least)
        scores = logits[ids].astype(np.float64)
        order = np.argsort(-scores, kind="stable")[:count]
        ids, scores = ids[order], scores[order]
        weights = np.exp((scores - scores[0]) / self.temperature)
        cumulative = np.cumsum(weights / weights.sum())
        if self.top_p is not None:
            # min: rounding may leave the sum of all just below top_p = 1.
            kept = min(int(np.searchsorted(cumulative, self.top_p)) + 1, len(ids))
            ids, cumulative = ids[:kept], cumulative[:kept]
        return ids, cumulative
