"""By what a quantized model is judged: a known metric, the user's own, or how close it stays to the float model."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeai.errors import DataError, UsageError
from edgeai.metrics import COSINE, METRICS, Metric
from edgeai.runtime.engine import Engine
from edgeai.samples import Samples
from edgeai.spec import Array


def find_metric(name: str | None, labels: Array | None, output_rank: int) -> Metric:
    """The metric called `name`, or `file.py:function`; without a name, what the labels and the output's rank suggest.

    A function takes (output, labels) and gives one number a sample, (N,); larger is better, unless it has an attribute
    `higher_is_better = False`. Raises UsageError for a name that is none, or one that needs labels where none are.
    """
    if name is None:
        if labels is None or labels.dtype.kind not in "iu" or labels.ndim + 1 != output_rank:
            return METRICS[COSINE]
        return METRICS["accuracy" if output_rank == 2 else "perplexity"]
    if ".py:" in name:
        return _users(name)
    if name not in METRICS:
        raise UsageError(f"there is no metric {name!r}", hint=f"use {', '.join(METRICS)} or file.py:function")
    if name != COSINE and labels is None:
        raise UsageError(f"{name} needs labels, and the samples have none", hint=f"use --metric {COSINE}")
    return METRICS[name]


def _users(name: str) -> Metric:
    from edgeai.exporting.user_code import load_code

    place, _, attribute = name.rpartition(":")
    function: Any = getattr(load_code(place), attribute, None)
    if not callable(function):
        raise UsageError(f"{name} is not a function", hint="def metric(output, labels): one number a sample")

    def per_sample(output: Array, labels: Array) -> Array:
        values = np.asarray(function(output, labels), np.float64)
        if values.shape != (len(labels),) or not np.isfinite(values).all():
            raise DataError(f"{name} must give one finite number a sample, ({len(labels)},); it gave {values.shape}")
        return values

    better = bool(getattr(function, "higher_is_better", True))
    return Metric(attribute, per_sample, lambda values: float(values.mean()), better)


def labelled(samples: Samples, reference: Engine, metric: Metric, output: str, batch: int) -> Samples:
    """`samples` with labels for `metric`: for the cosine these are the reference's own answers.

    Raises DataError where the answers of different samples differ in shape: such have no common array of labels.
    """
    if metric.name != COSINE:
        return samples
    answers = [reference.run(feed)[output] for feed in samples.feeds(batch)]
    if samples.items:
        shapes = {answer.shape for answer in answers}
        if len(shapes) > 1:
            raise DataError(f"the answers have shapes {shapes}; give samples of one shape, or a metric and labels")
        return Samples.from_feeds(samples.items, np.stack([answer.reshape(1, -1)[0] for answer in answers]))
    return Samples.from_rows(samples.rows, np.concatenate(answers))
