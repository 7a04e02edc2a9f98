"""What a verification found: the verdict, the sentences that explain it, and the figures behind them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgeai.errors import DataError, VerificationError
from edgeai.storage import atomic_text

Verdict = Literal["verified", "degraded", "failed", "unverified"]
Severity = Literal["note", "degraded", "unverified", "failed"]

EXIT_CODES: Mapping[Verdict, int] = {"verified": 0, "degraded": 3, "failed": 1, "unverified": 4}
_SAID = {"failed": "failed verification", "degraded": "is degraded", "unverified": "is unverified"}
_WORST_FIRST: tuple[Severity, ...] = ("failed", "unverified", "degraded", "note")


@dataclass(frozen=True)
class Finding:
    """One sentence, and what it does to the verdict. Notes do nothing to it."""

    severity: Severity
    text: str


@dataclass(frozen=True)
class OutputError:
    """The worst that was seen of one output.

    `error` is the largest difference relative to the output's own scale (for integers and strings, the share of
    elements that differ); `distance` is the relative Euclidean distance and `cosine` the cosine over all feeds
    compared by value. The worst element: its index, both values, the shape it stood in, the feed's description.
    """

    name: str
    error: float
    distance: float
    cosine: float
    index: tuple[int, ...]
    reference: float
    candidate: float
    shape: tuple[int, ...]
    feed: str

    def __str__(self) -> str:
        at = f"[{', '.join(map(str, self.index))}]"
        values = f"{_figure(self.reference)} became {_figure(self.candidate)}"
        return f"{self.name}{at} {values} (error {self.error:.2g} of its scale, shape {self.shape}, {self.feed})"


def _figure(value: float) -> str:
    """Whole numbers in full: an integer that was narrowed shows only in its last digits."""
    return f"{value:.0f}" if value.is_integer() and abs(value) < 2**53 else f"{value:.6g}"


@dataclass(frozen=True)
class MetricAgreement:
    """The metric of both sides on the same labelled samples.

    `drop` is how much worse the candidate is, relative to the reference; `low`..`high` is its 95 % interval
    by paired bootstrap (Efron and Tibshirani, 1993, chapter 13).
    """

    name: str
    reference: float
    candidate: float
    drop: float
    low: float
    high: float
    samples: int


@dataclass(frozen=True)
class Agreement:
    """`shapes` are the axis sizes at which both sides were compared and agreed in shape and dtype."""

    verdict: Verdict
    findings: tuple[Finding, ...]
    outputs: tuple[OutputError, ...]
    shapes: tuple[Mapping[str, int], ...]
    feeds: int
    metric: MetricAgreement | None = None

    @classmethod
    def judge(
        cls,
        findings: tuple[Finding, ...],
        outputs: tuple[OutputError, ...],
        *,
        shapes: tuple[Mapping[str, int], ...],
        feeds: int,
        metric: MetricAgreement | None,
    ) -> Agreement:
        """The worst finding decides; without one that counts, the verdict is `verified`."""
        worst = min((_WORST_FIRST.index(finding.severity) for finding in findings), default=-1)
        severity = _WORST_FIRST[worst]
        ordered = tuple(sorted(findings, key=lambda finding: _WORST_FIRST.index(finding.severity)))
        return cls("verified" if severity == "note" else severity, ordered, outputs, shapes, feeds, metric)

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]

    @property
    def error(self) -> float:
        """The largest error of any output, relative to that output's scale."""
        return max((output.error for output in self.outputs), default=0.0)

    @property
    def summary(self) -> str:
        """One line: the verdict, how much was compared, and the reason where it is not `verified`."""
        ranges = ", ".join(f"{name} {low}..{high}" for name, (low, high) in self.proven().items())
        extent = f"{self.feeds} feeds" + (f" ({ranges})" if ranges else "")
        if self.metric is not None:
            m = self.metric
            extent += f", {m.name} {m.reference:.4g} -> {m.candidate:.4g} on {m.samples} samples"
        reason = f": {self.findings[0].text}" if self.verdict != "verified" else ""
        return f"{self.verdict} on {extent}, largest error {self.error:.2g}{reason}"

    def proven(self) -> dict[str, tuple[int, int]]:
        """The smallest and the largest size of each axis at which both sides were compared."""
        names = dict.fromkeys(name for sizes in self.shapes for name in sizes)
        sizes = {name: [plan[name] for plan in self.shapes if name in plan] for name in names}
        return {name: (min(values), max(values)) for name, values in sizes.items()}

    def require_verified(self, what: str) -> None:
        """Raise VerificationError, saying `what` and the first reason, unless the verdict is `verified`."""
        if self.verdict != "verified":
            others = len([finding for finding in self.findings if finding.severity != "note"]) - 1
            more = f", and {others} more" if others > 0 else ""
            raise VerificationError(f"{what} {_SAID[self.verdict]}: {self.findings[0].text}{more}")

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Agreement:
        """The inverse of `to_json`. Raises DataError if a field is missing or unknown."""
        try:
            outputs = [{**row, "index": tuple(row["index"]), "shape": tuple(row["shape"])} for row in data["outputs"]]
            metric = data["metric"]
            return cls(
                verdict=data["verdict"],
                findings=tuple(Finding(**row) for row in data["findings"]),
                outputs=tuple(OutputError(**row) for row in outputs),
                shapes=tuple(dict(row) for row in data["shapes"]),
                feeds=data["feeds"],
                metric=MetricAgreement(**metric) if metric else None,
            )
        except (KeyError, TypeError) as error:
            raise DataError(f"not an agreement: {type(error).__name__} {error}") from error

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write JSON, whole or not at all. Infinite figures are written as Python's json writes them."""
        atomic_text(path, json.dumps(self.to_json(), indent=1), overwrite=overwrite)
