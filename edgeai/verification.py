"""Do two models agree? The gate that every stage passes: both sides run the same feeds, every output is compared.

The feeds are the given samples, and generated ones over the whole declared range of shapes and over the values
that break models. What is found ends in one of four verdicts; what cannot be proven is never called proven.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeai.agreement import Agreement, Finding, OutputError, Severity
from edgeai.comparison import Difference, difference, scale_of
from edgeai.dependence import Movement, Variation, missed, vacuous, variations
from edgeai.errors import DataError, EdgeAIError, InputError
from edgeai.explanation import explain
from edgeai.extent import fixed_axes
from edgeai.metrics import Metric
from edgeai.probing import probe_feeds
from edgeai.progress import SILENT, Progress
from edgeai.repeatability import Witness, changes_from_run_to_run, run_aside
from edgeai.runtime.engine import Engine
from edgeai.runtime.rehearsal import deadly_shapes, shapes_of
from edgeai.samples import Samples
from edgeai.scoring import judge, score
from edgeai.spec import Array, Feed, Signature
from edgeai.ties import Ties

_SAMPLE_BATCH = 16
_COMPARED_SAMPLES = 256  # compared by value; the metric sees all of them
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
    is_base: bool = False  # what the variations vary
    variation: Variation | None = None


class _Meter:
    """What was seen of the values of one output so far."""

    def __init__(self, floor: float) -> None:
        self.floor = floor
        self.worst: OutputError | None = None
        self.squares = np.zeros(4)

    def add(self, name: str, reference: Array, candidate: Array, case: _Case) -> Difference:
        found = difference(reference, candidate, floor=self.floor)
        if case.judged:
            self.squares += found.squares
            if self.worst is None or found.error > self.worst.error:
                place = (found.index, found.reference, found.candidate, reference.shape, case.description)
                self.worst = OutputError(name, found.error, 0.0, 1.0, *place)
        return found

    def result(self) -> OutputError | None:
        if self.worst is None:
            return None
        a, b, apart, product = (float(value) for value in self.squares)
        distance = float(np.sqrt(apart / a)) if a else float(apart > 0)
        cosine = product / float(np.sqrt(a * b)) if a and b else float(a == b)
        return dataclasses.replace(self.worst, distance=distance, cosine=min(cosine, 1.0))


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
    if any(finding.severity == "failed" for finding in findings):
        return Agreement.judge(tuple(findings), (), shapes=(), feeds=0, metric=None)
    cases = list(_cases(signature, samples, tolerance, seed, shapes, probes))
    trial = _Trial(reference, candidate, tolerance, [case.feed for case in cases])
    with progress.task("verifying", len(cases)) as advance:
        for case in cases:
            advance(note=case.description)
            trial.add(case)
    scored = None
    if metric is not None and samples is not None and samples.labels is not None:
        scored = score(reference, candidate, labelled_feeds(candidate.signature, samples), metric, output)
    outputs = tuple(result for meter in trial.meters.values() if (result := meter.result()) is not None)
    findings += trial.findings(signature)
    if scored is not None and tolerance.lossy:
        findings.append(judge(scored, tolerance.max_drop or 0.0))
    else:
        findings += _judge_values(outputs, tolerance, signature, trial.witnesses)
    if not trial.compared and all(finding.severity == "note" for finding in findings):
        reason = trial.refused[0].text if trial.refused else "there was no feed to compare"
        findings.append(Finding("unverified", f"nothing was compared: {reason}"))
    counted = tuple(_fewer(findings) + trial.refused)
    proven = tuple(trial.proven.values())
    return Agreement.judge(counted, outputs, shapes=proven, feeds=trial.compared, metric=scored)


class _Trial:
    """Both sides under the same feeds, one after the other, and what was seen of them."""

    def __init__(self, reference: Engine, candidate: Engine, tolerance: Tolerance, feeds: Sequence[Feed]) -> None:
        self._sides = {"reference": reference, "candidate": candidate}
        self._deadly = {who: deadly_shapes(engine, feeds) for who, engine in self._sides.items()}
        self._tolerance = tolerance
        self._double = _takes_float64(candidate.signature)
        self._ties = Ties(reference)
        self._found: list[Finding] = []
        self._written: dict[tuple[str, str], Finding] = {}
        self._movements: dict[str, Movement] = {}
        self._base: tuple[dict[str, Array], dict[str, Array]] | None = None
        self._unproven: list[Mapping[str, int]] = []  # sizes that the reference refuses
        self._broken: list[Mapping[str, int]] = []  # sizes that the reference takes and the candidate does not
        self._wrong: list[Mapping[str, int]] = []  # sizes at which a value is off
        self.meters: dict[str, _Meter] = {}
        self.proven: dict[tuple[tuple[str, int], ...], Mapping[str, int]] = {}
        self.refused: list[Finding] = []
        self.witnesses: list[Witness] = []
        self.compared = 0

    def add(self, case: _Case) -> None:
        if case.variation is not None and self._base is None:
            return  # there is nothing to hold it against
        try:
            expected = self._run("reference", case.feed)
        except EdgeAIError as error:
            text = f"not proven at {case.description}: the reference refuses it: {error}"
            self.refused.append(Finding("note", text))
            self._unproven.append(case.sizes)
            return
        try:
            actual = self._run("candidate", case.feed)
        except EdgeAIError as error:
            self._found.append(Finding("failed", f"the candidate refuses {case.description}: {error}"))
            self._broken.append(case.sizes)
            return
        self.compared += 1
        self._witness(Witness(case.feed, case.description, case.sizes, expected, actual))
        if case.is_base:
            self._base = (expected, actual)
        if case.variation is not None and self._base is not None:
            limit = self._tolerance.degraded
            self._found += missed(case.variation, self._base, (expected, actual), limit)
        settled = actual if self._tolerance.lossy else self._ties.settle(case.feed, case.description, expected, actual)
        found, wrong = self._compare(case, expected, settled)
        self._found += found
        if found:
            self._broken.append(case.sizes)
        else:
            self.proven[tuple(case.sizes.items())] = case.sizes
        if wrong:
            self._wrong.append(case.sizes)

    def _compare(
        self, case: _Case, expected: Mapping[str, Array], actual: Mapping[str, Array]
    ) -> tuple[list[Finding], bool]:
        """What differs in kind (dtype, shape, NaN), and whether any value is off by more than is ever rounding."""
        findings, wrong = [], False
        for name, reference in expected.items():
            candidate = actual[name]
            if reference.dtype != candidate.dtype:
                text = f"output {name} is {candidate.dtype}, the reference gives {reference.dtype}: changed dtype"
                findings.append(Finding("failed", text))
            elif reference.shape != candidate.shape:
                findings.append(Finding("failed", _shape_finding(name, reference.shape, candidate.shape, case)))
            else:
                # A floor keeps the noise of an output that cancels to nothing from being read as an error.
                meter = self.meters.setdefault(name, _Meter(0.0))
                meter.floor = meter.floor or 1e-3 * scale_of(reference)  # the first of them may be empty
                found = meter.add(name, reference, candidate, case)
                self._movements.setdefault(name, Movement(meter.floor)).add(reference, candidate)
                limit = _factor(reference.dtype.name, self._double) * self._tolerance.degraded
                wrong |= case.judged and not self._tolerance.lossy and found.error > limit
                if found.nonfinite:
                    at = f"{name}[{', '.join(map(str, found.index))}]"
                    values = f"{found.candidate:g} where the reference has {found.reference:g}"
                    text = f"output {at} is {values} at {case.description}: NaN or Inf on one side only"
                    findings.append(Finding("failed", text))
        return findings, wrong

    def findings(self, signature: Signature) -> Iterator[Finding]:
        """All that was found but the size of the errors, what explains most first."""
        for who, engine in self._sides.items():
            answers = [(one.feed, one.expected if who == "reference" else one.actual) for one in self.witnesses]
            yield from changes_from_run_to_run(engine, who, answers, double=self._double)
        yield from self._written.values()
        proven = list(self.proven.values())
        yield from fixed_axes(signature, proven, broken=self._broken, wrong=self._wrong, refused=self._unproven)
        yield from self._found
        yield from vacuous(self._movements, min(self._tolerance.verified, EXACT.verified))
        yield from self._ties.findings()

    def _run(self, who: str, feed: Feed) -> dict[str, Array]:
        if died_of := self._deadly[who].get(shapes_of(feed)):
            raise InputError(f"ONNX Runtime dies of it ({died_of}), and the process that called it too")
        outputs, written = run_aside(self._sides[who], feed)
        for name in written:
            text = f"the {who} writes into input {name}, which is its caller's"
            self._written.setdefault((who, name), Finding("failed", text))
        return outputs

    def _witness(self, witness: Witness) -> None:
        """Keep two: the first, and the next of other sizes if there is one."""
        if len(self.witnesses) < 2:
            self.witnesses.append(witness)
        elif self.witnesses[0].sizes == self.witnesses[1].sizes != witness.sizes:
            self.witnesses[1] = witness


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
            for index, (open_, fixed) in enumerate(zip(a.shape, b.shape, strict=False)):
                if kind == "input" and isinstance(open_, str) and isinstance(fixed, int):
                    text = f"axis {index} of input {a.name} is {open_} in the reference and fixed to {fixed} in the"
                    yield Finding("note", f"{text} candidate: nothing is proven at other sizes")


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
    for index, probe in enumerate(probe_feeds(signature, seed=seed, count=probes, shapes=shapes)):
        # Generated values lie outside what a lossy stage was calibrated for: they prove structure, not accuracy.
        judged = not tolerance.lossy or (not real and "normal" in probe.description)
        yield _Case(probe.feed, probe.description, probe.sizes, judged, is_base=not index)
        if not index and probes is None:
            for variation in variations(signature, probe, seed=seed):
                changed = variation.probe
                if variation.input or not tolerance.lossy:  # one scale for a whole batch mixes its rows, honestly
                    yield _Case(
                        changed.feed, changed.description, changed.sizes, not tolerance.lossy, variation=variation
                    )


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


def _shape_finding(name: str, reference: tuple[int, ...], candidate: tuple[int, ...], case: _Case) -> str:
    start = f"output {name} has shape {candidate} at {case.description}, the reference gives {reference}"
    if len(reference) != len(candidate):
        return f"{start}: the rank differs"
    axes = [i for i, (a, b) in enumerate(zip(reference, candidate, strict=True)) if a != b]
    return f"{start}: axis {', '.join(map(str, axes))} is baked"


def _judge_values(
    outputs: tuple[OutputError, ...], tolerance: Tolerance, signature: Signature, witnesses: list[Witness]
) -> Iterator[Finding]:
    dtypes = {spec.name: spec.dtype for spec in signature.outputs}
    for output in outputs:
        dtype = dtypes.get(output.name, "float32")
        factor = _factor(dtype, _takes_float64(signature))
        error, factor = (output.distance, 1.0) if tolerance.lossy else (output.error, factor)
        if np.isfinite(error) and error > factor * tolerance.verified:
            severity: Severity = "degraded" if error <= factor * tolerance.degraded else "failed"
            limit = factor * (tolerance.verified if severity == "degraded" else tolerance.degraded)
            how = f"distance {error:.2g}" if tolerance.lossy else f"error {error:.2g}"
            reason = explain(output.name, witnesses, factor * tolerance.verified)
            text = f"{output}: {how} is beyond {limit:.2g}"
            yield Finding(severity, f"output {output.name}: {reason}: {text}" if reason else text)


def _takes_float64(signature: Signature) -> bool:
    return any(spec.dtype == "float64" for spec in signature.inputs)


def _factor(dtype: str, from_float64: bool) -> float:
    """The tolerance of an output, in units of float32's: nothing for what is no float."""
    if "float" not in dtype:
        return 0.0
    return _FLOAT64_FACTOR if dtype == "float64" and from_float64 else _DTYPE_FACTOR.get(dtype, 1.0)


def labelled_feeds(signature: Signature, samples: Samples) -> Iterator[tuple[Feed, Array]]:
    """Feeds of samples with the labels of their rows; rows that do not fill a fixed batch are left out.

    Raises DataError if none is left.
    """
    assert samples.labels is not None
    batch, start = sample_batch(signature), 0
    for feed in samples.feeds(batch):
        if _sizes(signature, feed) is None:
            continue
        count = 1 if samples.items else len(next(iter(feed.values())))
        yield feed, samples.labels[start : start + count]
        start += count
    if not start:
        raise DataError(f"{len(samples)} samples do not fill one batch of {batch}")


def _fewer(findings: list[Finding]) -> list[Finding]:
    """The first few: what fails at one shape tends to fail at all of them."""
    if len(findings) <= _SHOWN_FINDINGS:
        return findings
    ordered = sorted(findings, key=lambda finding: finding.severity != "failed")
    rest = Finding("note", f"{len(findings) - _SHOWN_FINDINGS} more findings of the same kinds")
    return [*ordered[:_SHOWN_FINDINGS], rest]
