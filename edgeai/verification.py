"""Do two models agree? The gate that every stage passes: both sides run the same feeds, every output is compared.

The feeds are the given samples, and generated ones over the whole declared range of shapes and over the values
that break models. What is found ends in one of four verdicts; what cannot be proven is never called proven.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from edgeai.agreement import Agreement, Finding, MetricAgreement, OutputError, Severity
from edgeai.comparison import Difference, difference, scale_of
from edgeai.errors import DataError, EdgeAIError
from edgeai.metrics import Metric
from edgeai.probing import probe_feeds
from edgeai.progress import SILENT, Progress
from edgeai.runtime.engine import Engine
from edgeai.samples import Samples
from edgeai.spec import Array, Feed, Signature

_SAMPLE_BATCH = 16
_COMPARED_SAMPLES = 256  # compared by value; the metric sees all of them
_RESAMPLES = 1000
_SHOWN_FINDINGS = 8  # of one kind: a baked axis shows at every other shape


@dataclass(frozen=True)
class Tolerance:
    """Up to `verified` an error is rounding, up to `degraded` it is a loss that has to be said, beyond it a failure.

    Lossless stages are judged by the worst element of every feed, in units of the output's scale, for float32;
    other dtypes in proportion. A `lossy` stage (quantization) is judged by the relative Euclidean distance over
    all samples (over generated feeds only where there are no samples), and where the samples have labels by the
    metric instead: a relative drop beyond `max_drop` is `degraded`.
    """

    verified: float
    degraded: float
    lossy: bool = False
    max_drop: float | None = None


EXACT = Tolerance(verified=2e-4, degraded=1e-3)
QUANTIZED = Tolerance(verified=0.05, degraded=0.3, lossy=True, max_drop=0.005)
_DTYPE_FACTOR = {"float16": 40.0, "bfloat16": 320.0}
_FLOAT64_FACTOR = 1e-5  # only where float64 goes in: a float32 module may well end in a cast to float64


@dataclass(frozen=True)
class _Case:
    feed: Feed
    description: str
    sizes: Mapping[str, int]
    judged: bool  # by value; otherwise by structure alone


class _Meter:
    """What was seen of one output so far."""

    def __init__(self, floor: float) -> None:
        self.floor = floor
        self.worst: OutputError | None = None
        self.squares = np.zeros(4)
        self.first: dict[tuple[int, ...], tuple[Array, Array]] = {}
        self.moved = [0.0, 0.0]  # how far each side got from its own first answer of the same shape
        self.repeated = False

    def add(self, name: str, reference: Array, candidate: Array, case: _Case) -> Difference:
        found = difference(reference, candidate, floor=self.floor)
        if case.judged:
            self.squares += found.squares
            if self.worst is None or found.error > self.worst.error:
                place = (found.index, found.reference, found.candidate, reference.shape, case.description)
                self.worst = OutputError(name, found.error, 0.0, 1.0, *place)
        if reference.shape in self.first:
            self.repeated = True
            for side, (start, now) in enumerate(zip(self.first[reference.shape], (reference, candidate), strict=True)):
                self.moved[side] = max(self.moved[side], difference(start, now, floor=self.floor).error)
        elif len(self.first) < 2:  # the small usual shape comes first and comes often
            self.first[reference.shape] = (reference.copy(), candidate.copy())
        return found

    def result(self) -> OutputError | None:
        if self.worst is None:
            return None
        a, b, apart, product = (float(value) for value in self.squares)
        distance = float(np.sqrt(apart / a)) if a else float(apart > 0)
        cosine = product / float(np.sqrt(a * b)) if a and b else float(a == b)
        fields = self.worst
        return OutputError(
            fields.name, fields.error, distance, min(cosine, 1.0),
            fields.index, fields.reference, fields.candidate, fields.shape, fields.feed,
        )  # fmt: skip


def verify(
    reference: Engine,
    candidate: Engine,
    samples: Samples | None = None,
    *,
    signature: Signature | None = None,
    tolerance: Tolerance = EXACT,
    metric: Metric | None = None,
    output: str | None = None,
    seed: int = 0,
    shapes: bool = True,
    probes: int | None = None,
    progress: Progress = SILENT,
) -> Agreement:
    """Run both sides on `samples` and on generated feeds, and compare names, dtypes, shapes and values.

    `signature` gives the axes and ranges to prove (default: the candidate's). `metric` is scored on `output`
    (default: the first) where the samples have labels. `shapes=False` stays at one generated shape, `probes`
    caps the number of generated feeds. Never raises for a disagreement: that is what the verdict is for.
    Raises DataError if `metric` or `output` do not fit, InputError if no feed can be generated.
    """
    signature = signature or candidate.signature
    findings = list(_interfaces(reference.signature, candidate.signature))
    if findings:
        return Agreement.judge(tuple(findings), (), shapes=(), feeds=0, metric=None)
    cases = list(_cases(signature, samples, tolerance, seed, shapes, probes))
    meters: dict[str, _Meter] = {}
    proven: dict[tuple[tuple[str, int], ...], Mapping[str, int]] = {}
    refused: list[Finding] = []
    unproven: list[Mapping[str, int]] = []
    compared = 0
    with progress.task("verifying", len(cases)) as advance:
        for case in cases:
            advance(note=case.description)
            try:
                expected = reference.run(case.feed)
            except EdgeAIError as error:
                refused.append(Finding("note", f"not proven at {case.description}: the reference refuses it: {error}"))
                unproven.append(case.sizes)
                continue
            try:
                actual = candidate.run(case.feed)
            except EdgeAIError as error:
                findings.append(Finding("failed", f"the candidate refuses {case.description}: {error}"))
                continue
            if not compared:
                findings += _repeatable(reference, candidate, case.feed, expected, actual, tolerance)
            compared += 1
            found = list(_compare(expected, actual, case, meters))
            findings += found
            if not found:
                proven[tuple(case.sizes.items())] = case.sizes
    findings += _vacuous(meters, tolerance)
    findings += _fixed_axes(list(proven.values()), unproven)
    scored = _score(reference, candidate, samples, metric, output) if metric is not None else None
    outputs = tuple(result for meter in meters.values() if (result := meter.result()) is not None)
    if scored is not None and tolerance.lossy:
        findings += _judge_metric(scored, tolerance)
    else:
        findings += _judge_values(outputs, tolerance, signature)
    if not compared and not findings:
        reason = refused[0].text if refused else "there was no feed to compare"
        findings.append(Finding("unverified", f"nothing was compared: {reason}"))
    counted = tuple(_fewer(findings) + refused)
    return Agreement.judge(counted, outputs, shapes=tuple(proven.values()), feeds=compared, metric=scored)


def _interfaces(reference: Signature, candidate: Signature) -> Iterator[Finding]:
    for kind, ours, theirs in (
        ("input", reference.inputs, candidate.inputs),
        ("output", reference.outputs, candidate.outputs),
    ):
        names, others = [spec.name for spec in ours], [spec.name for spec in theirs]
        if names != others:
            yield Finding("failed", f"{kind}s are {', '.join(others)}; the reference has {', '.join(names)}")
            continue
        for a, b in zip(ours, theirs, strict=True):
            if a.dtype != b.dtype:
                yield Finding("failed", f"{kind} {a.name} is {b.dtype}; the reference has {a.dtype}: changed dtype")


def _cases(
    signature: Signature, samples: Samples | None, tolerance: Tolerance, seed: int, shapes: bool, probes: int | None
) -> Iterator[_Case]:
    real = 0
    if samples is not None:
        batch = sample_batch(signature)
        for feed in itertools.islice(samples.feeds(batch), -(-_COMPARED_SAMPLES // batch)):
            sizes = _sizes(signature, feed)
            if sizes is not None:
                real += 1
                yield _Case(feed, f"samples, feed {real - 1}", sizes, judged=True)
    for probe in probe_feeds(signature, seed=seed, count=probes, shapes=shapes):
        # Generated values lie outside what a lossy stage was calibrated for: they prove structure, not accuracy.
        judged = not tolerance.lossy or (not real and "normal" in probe.description)
        yield _Case(probe.feed, probe.description, probe.sizes, judged)


def sample_batch(signature: Signature) -> int:
    """How many rows of samples make one feed: what the batch axis takes, or is fixed to."""
    first = next((spec.shape[0] for spec in signature.inputs if spec.shape), 1)
    return first if isinstance(first, int) else min(_SAMPLE_BATCH, max(1, signature.axis(first).maximum))


def _sizes(signature: Signature, feed: Feed) -> dict[str, int] | None:
    """Axis sizes of a feed of samples; None for the last, smaller one of a model whose batch is fixed."""
    sizes: dict[str, int] = {}
    for spec in signature.inputs:
        array = feed.get(spec.name)
        for declared, size in zip(spec.shape, () if array is None else array.shape, strict=False):
            if isinstance(declared, str) and "+" not in declared:  # a sum follows from its terms
                sizes.setdefault(declared, size)
    first = next((spec for spec in signature.inputs if spec.shape and spec.name in feed), None)
    partial = first is not None and isinstance(first.shape[0], int) and len(feed[first.name]) < first.shape[0]
    return None if partial else sizes


def _repeatable(
    reference: Engine,
    candidate: Engine,
    feed: Feed,
    expected: Mapping[str, Array],
    actual: Mapping[str, Array],
    tolerance: Tolerance,
) -> Iterator[Finding]:
    for who, engine, first in (("reference", reference, expected), ("candidate", candidate, actual)):
        again = engine.run(feed)
        for name, array in first.items():
            same = array.shape == again[name].shape
            if not same or difference(array, again[name]).error > tolerance.verified:
                text = f"output {name} of the {who} changes from run to run on the same feed: it is random"
                yield Finding("failed", text)


def _compare(
    expected: Mapping[str, Array], actual: Mapping[str, Array], case: _Case, meters: dict[str, _Meter]
) -> Iterator[Finding]:
    for name, reference in expected.items():
        candidate = actual[name]
        if reference.dtype != candidate.dtype:
            text = f"output {name} is {candidate.dtype}, the reference gives {reference.dtype}: changed dtype"
            yield Finding("failed", text)
        elif reference.shape != candidate.shape:
            yield Finding("failed", _shape_finding(name, reference.shape, candidate.shape, case))
        else:
            # A floor keeps the noise of an output that cancels to nothing from being read as an error.
            meter = meters.setdefault(name, _Meter(1e-3 * scale_of(reference)))
            found = meter.add(name, reference, candidate, case)
            if found.nonfinite:
                at = f"{name}[{', '.join(map(str, found.index))}]"
                values = f"{found.candidate:g} where the reference has {found.reference:g}"
                yield Finding("failed", f"output {at} is {values} at {case.description}: NaN or Inf on one side only")


def _shape_finding(name: str, reference: tuple[int, ...], candidate: tuple[int, ...], case: _Case) -> str:
    start = f"output {name} has shape {candidate} at {case.description}, the reference gives {reference}"
    if len(reference) != len(candidate):
        return f"{start}: the rank differs"
    axes = [i for i, (a, b) in enumerate(zip(reference, candidate, strict=True)) if a != b]
    return f"{start}: axis {', '.join(map(str, axes))} is baked"


def _fixed_axes(proven: list[Mapping[str, int]], unproven: list[Mapping[str, int]]) -> Iterator[Finding]:
    """A symbolic axis that the reference takes at one size alone is not symbolic."""
    for name in proven[0] if proven else ():
        sizes = {plan[name] for plan in proven if name in plan}
        if len(sizes) == 1 and any(plan.get(name) not in sizes for plan in unproven):
            yield Finding(
                "unverified", f"axis {name} is proven at {min(sizes)} alone: the reference refuses other sizes"
            )


def _vacuous(meters: Mapping[str, _Meter], tolerance: Tolerance) -> Iterator[Finding]:
    """An output that moves less between inputs than the tolerance would agree with anything."""
    watched = {name: meter for name, meter in meters.items() if meter.repeated}
    limit = min(tolerance.verified, EXACT.verified)
    still = [name for name, meter in watched.items() if meter.moved[0] <= limit]
    for name, meter in watched.items():
        if name not in still and meter.moved[1] <= limit:
            yield Finding("failed", f"vacuous: output {name} of the candidate does not depend on the input")
    if still and len(still) == len(meters):
        names = ", ".join(still)
        text = f"vacuous: no output ({names}) of the reference depends on the input: the network is dead"
        yield Finding("unverified", text)
    elif still:
        yield Finding("note", f"outputs that do not depend on the input's values: {', '.join(still)}")


def _judge_values(outputs: tuple[OutputError, ...], tolerance: Tolerance, signature: Signature) -> Iterator[Finding]:
    from_float64 = any(spec.dtype == "float64" for spec in signature.inputs)
    dtypes = {spec.name: spec.dtype for spec in signature.outputs}
    for output in outputs:
        dtype = dtypes.get(output.name, "float32")
        factor = _FLOAT64_FACTOR if dtype == "float64" and from_float64 else _DTYPE_FACTOR.get(dtype, 1.0)
        error, factor = (output.distance, 1.0) if tolerance.lossy else (output.error, factor)
        if np.isfinite(error) and error > factor * tolerance.verified:
            severity: Severity = "degraded" if error <= factor * tolerance.degraded else "failed"
            limit = factor * (tolerance.verified if severity == "degraded" else tolerance.degraded)
            how = f"distance {error:.2g}" if tolerance.lossy else f"error {error:.2g}"
            yield Finding(severity, f"{output}: {how} is beyond {limit:.2g}")


def _judge_metric(scored: MetricAgreement, tolerance: Tolerance) -> Iterator[Finding]:
    limit = 0.0 if tolerance.max_drop is None else tolerance.max_drop
    change = f"{scored.name} {scored.reference:.4g} -> {scored.candidate:.4g} on {scored.samples} samples"
    interval = f"a drop of {scored.drop:.2%} (95 % interval {scored.low:.2%} to {scored.high:.2%})"
    if scored.drop > limit:
        yield Finding("degraded", f"{change}: {interval}, beyond {limit:.2%}")
    else:
        yield Finding("note", f"{change}: {interval}")


def _score(
    reference: Engine, candidate: Engine, samples: Samples | None, metric: Metric, output: str | None
) -> MetricAgreement | None:
    if samples is None or samples.labels is None:
        return None
    name = output or reference.signature.output_names[0]
    if name not in reference.signature.output_names:
        raise DataError(f"no output {name}", hint=f"there are {', '.join(reference.signature.output_names)}")
    batch, start = sample_batch(candidate.signature), 0
    scores: tuple[list[Array], list[Array]] = ([], [])
    for feed in samples.feeds(batch):
        if _sizes(candidate.signature, feed) is None:
            continue
        count = 1 if samples.items else len(next(iter(feed.values())))
        labels = samples.labels[start : start + count]
        start += count
        for kept, engine in zip(scores, (reference, candidate), strict=True):
            kept.append(metric.per_sample(engine.run(feed)[name], labels))
    if not scores[0]:
        raise DataError(f"{len(samples)} samples do not fill one batch of {batch}")
    return _paired_bootstrap(metric, np.concatenate(scores[0]), np.concatenate(scores[1]))


def _paired_bootstrap(metric: Metric, reference: Array, candidate: Array) -> MetricAgreement:
    a, b = metric.summary(reference), metric.summary(candidate)
    generator = np.random.default_rng(0)
    drops = []
    for _ in range(_RESAMPLES):
        chosen = generator.integers(0, len(reference), len(reference))
        drops.append(metric.drop(metric.summary(reference[chosen]), metric.summary(candidate[chosen])))
    low, high = (float(value) for value in np.percentile(drops, (2.5, 97.5)))
    return MetricAgreement(metric.name, a, b, metric.drop(a, b), low, high, len(reference))


def _fewer(findings: list[Finding]) -> list[Finding]:
    """The first few: what fails at one shape tends to fail at all of them."""
    if len(findings) <= _SHOWN_FINDINGS:
        return findings
    ordered = sorted(findings, key=lambda finding: finding.severity != "failed")
    rest = Finding("note", f"{len(findings) - _SHOWN_FINDINGS} more findings of the same kinds")
    return [*ordered[:_SHOWN_FINDINGS], rest]
