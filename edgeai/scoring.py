"""The metric of two models on the same labelled samples, and the interval of the difference between them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edgeai.agreement import Finding, MetricAgreement
from edgeai.errors import DataError
from edgeai.metrics import Metric
from edgeai.runtime.engine import Engine
from edgeai.spec import Array, Feed

_RESAMPLES = 1000


def score(
    reference: Engine, candidate: Engine, labelled: Iterable[tuple[Feed, Array]], metric: Metric, output: str | None
) -> MetricAgreement:
    """`metric` of both sides on `output` (default: the first). Raises DataError if there is no such output."""
    name = output or reference.signature.output_names[0]
    if name not in reference.signature.output_names:
        raise DataError(f"no output {name}", hint=f"there are {', '.join(reference.signature.output_names)}")
    scores: tuple[list[Array], list[Array]] = ([], [])
    for feed, labels in labelled:
        for kept, engine in zip(scores, (reference, candidate), strict=True):
            kept.append(metric.per_sample(engine.run(feed)[name], labels))
    return paired_bootstrap(metric, np.concatenate(scores[0]), np.concatenate(scores[1]))


def judge(scored: MetricAgreement, max_drop: float) -> Finding:
    """Is the drop, relative to the reference, within `max_drop`?"""
    change = f"{scored.name} {scored.reference:.4g} -> {scored.candidate:.4g} on {scored.samples} samples"
    interval = f"a drop of {scored.drop:.2%} (95 % interval {scored.low:.2%} to {scored.high:.2%})"
    if scored.drop > max_drop:
        return Finding("degraded", f"{change}: {interval}, beyond {max_drop:.2%}")
    return Finding("note", f"{change}: {interval}")


def paired_bootstrap(metric: Metric, reference: Array, candidate: Array) -> MetricAgreement:
    """Of what `metric.per_sample` said of the same samples, (N,) each. The same arrays give the same interval."""
    a, b = metric.summary(reference), metric.summary(candidate)
    generator = np.random.default_rng(0)
    drops = []
    for _ in range(_RESAMPLES):
        chosen = generator.integers(0, len(reference), len(reference))
        drops.append(metric.drop(metric.summary(reference[chosen]), metric.summary(candidate[chosen])))
    low, high = (float(value) for value in np.percentile(drops, (2.5, 97.5)))
    return MetricAgreement(metric.name, a, b, metric.drop(a, b), low, high, len(reference))
