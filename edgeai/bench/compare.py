"""Two reports of different days: which figures changed, and whether that breaks a rule."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgeai.bench.report import Report, SubjectResult, changes_of_speed
from edgeai.bench.statistics import (
    FASTER,
    NOT_RESOLVED,
    SLOWER,
    Ratio,
    ratio_of_means,
    ratio_of_percentiles,
    verdict,
)
from edgeai.bench.workload import Workload
from edgeai.errors import UsageError

FIGURES = ("p50", "p90", "p95", "p99", "mean", "throughput")
REGRESSED, PASSED = "regressed", "passed"
_RULE = re.compile(r"(?P<figure>\w+)(?P<sign>[+-])(?P<percent>\d+(\.\d+)?)%")


@dataclass(frozen=True)
class Rule:
    """Fail where `figure` is worse by more than `share`: a latency longer, a throughput lower."""

    figure: str
    share: float

    @classmethod
    def parse(cls, text: str) -> Rule:
        """From `p99+5%` or `throughput-5%`. Raises UsageError for anything else."""
        found = _RULE.fullmatch(text)
        worse = "-" if found and found["figure"] == "throughput" else "+"
        if not found or found["figure"] not in FIGURES or found["sign"] != worse:
            raise UsageError(f"--fail-if {text!r} is not a rule", hint="write p99+5%, p50+3%, mean+3%, throughput-5%")
        share = float(found["percent"]) / 100
        if worse == "-" and share >= 1:
            raise UsageError(
                f"--fail-if {text!r} is not a rule: nothing is left below 100%", hint="write throughput-5%"
            )
        return cls(found["figure"], share)

    def __str__(self) -> str:
        return f"{self.figure}{'-' if self.figure == 'throughput' else '+'}{100 * self.share:g}%"

    @property
    def limit(self) -> float:
        """The ratio of times, new over old, that is still allowed."""
        return 1 / (1 - self.share) if self.figure == "throughput" else 1 + self.share


@dataclass(frozen=True)
class Change:
    """One figure of one subject. `ratio` is new time over old time (for throughput: the time a run takes).

    `word` is faster, slower or not resolved; where the samples cannot carry the figure `ratio` is None.
    """

    subject: str
    figure: str
    old: float | None
    new: float | None
    ratio: Ratio | None
    word: str
    reason: str = ""


@dataclass(frozen=True)
class Broken:
    """A rule that a change breaks for certain (its whole interval does), or that could not be judged."""

    rule: str
    subject: str
    certain: bool
    text: str


@dataclass(frozen=True)
class Comparison:
    """`verdict` is regressed if any rule is broken for certain, else passed."""

    changes: tuple[Change, ...]
    broken: tuple[Broken, ...]
    warnings: tuple[str, ...]

    @property
    def verdict(self) -> str:
        return REGRESSED if any(broken.certain for broken in self.broken) else PASSED


def compare(old: Report, new: Report, *, rules: Sequence[Rule] = (), force: bool = False, seed: int = 0) -> Comparison:
    """Compare the subjects of equal names (or the only ones) of two reports.

    Unlike subjects of one report these ran apart, so that blocks are not pairs, and what changed in between on the
    machine is inside the ratio. Raises UsageError for reports of different machines or workloads, unless `force`, and
    if no subject is in both.
    """
    pairs = _pairs(old, new)
    differences = _differences(old, new, pairs)
    if differences and not force:
        raise UsageError(f"the reports cannot be compared: {'; '.join(differences)}", hint="--force compares them")
    figures = list(dict.fromkeys(["p50", "p99", "throughput", *(rule.figure for rule in rules)]))
    changes = tuple(_change(was, now, figure, new.workload, seed=seed) for was, now in pairs for figure in figures)
    broken = [
        failure
        for change in changes
        for rule in rules
        if rule.figure == change.figure and (failure := _judged(rule, change))
    ]
    warnings = [*differences]
    for when, report in (("old", old), ("new", new)):
        warnings += [f"{when}: the machine was {report.disturbance.verdict}: {e}" for e in report.disturbance.evidence]
        warnings += [f"{when}: interrupted"] * report.interrupted
        warnings += [f"{when}: {sentence}" for sentence in changes_of_speed(report.subjects, report.workload)]
    missing = {s.name for s in old.subjects} ^ {s.name for s in new.subjects} if len(pairs) != 1 else set()
    warnings += [f"{name} is in one report only" for name in sorted(missing)]
    return Comparison(changes, tuple(broken), tuple(warnings))


def _differences(old: Report, new: Report, pairs: Sequence[tuple[SubjectResult, SubjectResult]]) -> list[str]:
    found = []
    if old.machine.fingerprint != new.machine.fingerprint:
        found.append(f"different machines ({old.machine.fingerprint} and {new.machine.fingerprint})")
    for name in ("scenario", "batch", "concurrency", "query_size", "rate", "latency_bound_ms"):
        was, now = getattr(old.workload, name), getattr(new.workload, name)
        if was != now:
            found.append(f"different workloads ({name} {was} and {now})")
    if old.workload.batch == new.workload.batch:  # a size of the batch axis stands beside the subject alone
        found += [
            f"different workloads ({after.name}: batch {before.batch} and {after.batch})"
            for before, after in pairs
            if before.batch != after.batch
        ]
    return found


def _pairs(old: Report, new: Report) -> list[tuple[SubjectResult, SubjectResult]]:
    if len(old.subjects) == len(new.subjects) == 1:
        return [(old.subjects[0], new.subjects[0])]
    before = {subject.name: subject for subject in old.subjects}
    pairs = [(before[subject.name], subject) for subject in new.subjects if subject.name in before]
    if not pairs:
        names = ", ".join(subject.name for report in (old, new) for subject in report.subjects)
        raise UsageError(f"no subject is in both reports ({names})", hint="measure under the same names")
    return pairs


def _change(was: SubjectResult, now: SubjectResult, figure: str, workload: Workload, *, seed: int) -> Change:
    estimates = [result.statistics[figure] for result in (was, now)]
    old, new = (estimate.value for estimate in estimates)
    if old is None or new is None:
        reason = next(estimate.reason for estimate in estimates if estimate.value is None)
        return Change(now.name, figure, old, new, None, NOT_RESOLVED, reason)
    if figure != "throughput" and (was.capacity or now.capacity):
        return Change(now.name, figure, old, new, None, NOT_RESOLVED, "each was measured at its own highest rate")
    blocks = [[block.samples_ns for block in r.blocks] for r in (now, was)]
    processes = (now.processes, was.processes)
    if figure == "throughput":
        times = [[(block.duration_ns // len(block.samples_ns),) for block in r.blocks] for r in (now, was)]
        ratio = ratio_of_means(times[0], times[1], processes=processes, seed=seed)
    elif figure == "mean":
        ratio = ratio_of_means(blocks[0], blocks[1], processes=processes, seed=seed)
    else:
        ratio = ratio_of_percentiles(blocks[0], blocks[1], int(figure[1:]), processes=processes, seed=seed)
    return Change(now.name, figure, old, new, ratio, verdict(ratio, workload.noise_floor))


def _judged(rule: Rule, change: Change) -> Broken | None:
    what = f"{change.subject}: {rule.figure}"
    if change.ratio is None:
        return Broken(str(rule), change.subject, False, f"{what} cannot be judged: {change.reason}")
    ratio = change.ratio
    said = f"{what} takes {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] times as long"
    if change.word == SLOWER and ratio.low > rule.limit:
        return Broken(str(rule), change.subject, True, f"{said}, more than {rule} allows")
    if change.word != FASTER and ratio.value > rule.limit:
        return Broken(
            str(rule), change.subject, False, f"{said}; its interval does not settle whether {rule} is broken"
        )
    return None
