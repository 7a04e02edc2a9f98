"""How good a model's answers are, in the user's own terms. Pure numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgeai.errors import DataError
from edgeai.spec import Array

IGNORED_LABEL = -100


@dataclass(frozen=True)
class Metric:
    """`per_sample(output, labels)` gives one number a sample; `summary` makes the figure that is reported.

    Keeping the samples apart is what makes an interval for a difference possible (paired bootstrap).
    """

    name: str
    per_sample: Callable[[Array, Array], Array]
    summary: Callable[[Array], float]
    higher_is_better: bool

    def __call__(self, output: Array, labels: Array) -> float:
        return self.summary(self.per_sample(output, labels))

    def drop(self, reference: float, candidate: float) -> float:
        """How much worse the candidate is, relative to the reference; negative where it is better."""
        worse = reference - candidate if self.higher_is_better else candidate - reference
        return worse / abs(reference) if reference else float(worse > 0)


def _hits(logits: Array, labels: Array) -> Array:
    """logits (N, C), labels (N,) -> 1.0 where the largest logit is the label."""
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise DataError(f"accuracy needs logits (N, C) and labels (N,), got {logits.shape} and {labels.shape}")
    hits: Array = (logits.argmax(-1) == labels).astype(np.float64)
    return hits


def _negative_log_likelihood(logits: Array, labels: Array) -> Array:
    """logits (N, T, V), labels (N, T) -> mean negative log-likelihood of each sample's counted tokens, in nats."""
    if logits.ndim != 3 or labels.shape != logits.shape[:2]:
        raise DataError(f"perplexity needs logits (N, T, V) and labels (N, T), got {logits.shape} and {labels.shape}")
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    log_total = np.log(np.exp(shifted).sum(-1))
    counted = labels != IGNORED_LABEL
    chosen = np.take_along_axis(shifted, np.where(counted, labels, 0)[..., None], -1)[..., 0]
    loss: Array = ((log_total - chosen) * counted).sum(-1) / np.maximum(counted.sum(-1), 1)
    return loss


def _cosine(output: Array, reference: Array) -> Array:
    """output, reference (N, ...) -> the cosine of each sample's two answers; 1 where both are zero."""
    if not len(reference) or output.size != reference.size:
        raise DataError(f"cosine needs two answers of one size, got {output.shape} and {reference.shape}")
    a, b = (array.reshape(len(reference), -1).astype(np.float64) for array in (output, reference))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines: Array = np.where(lengths > 0, (a * b).sum(1) / np.where(lengths > 0, lengths, 1.0), (a == b).all(1))
    return cosines


# What serves where there are no labels: the reference's own answers are.
COSINE = "cosine"

METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", _hits, lambda values: float(values.mean()), higher_is_better=True),
        Metric("perplexity", _negative_log_likelihood, lambda values: float(np.exp(values.mean())), False),
        Metric(COSINE, _cosine, lambda values: float(values.mean()), higher_is_better=True),
    )
}
