"""Does the bundle still give the right answers, here? Integrity, golden vectors and provider, checked on the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from edgeai.errors import InputError
from edgeai.runtime.engine import Engine
from edgeai.runtime.loading import load
from edgeai.spec import Array


@dataclass(frozen=True)
class BundleReport:
    """`errors` maps each output to its worst relative error over all golden vectors; `tolerance` is their limit.

    `verdict`: `verified`, `failed` (an output is out of tolerance), or `unverified` (there are no golden vectors).
    `findings` are sentences a person should read, also where nothing failed.
    """

    path: Path
    verdict: Literal["verified", "failed", "unverified"]
    providers: tuple[str, ...]
    placement: str
    vectors: int
    tolerance: float | None
    errors: Mapping[str, float]
    findings: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        return {"verified": 0, "failed": 1, "unverified": 4}[self.verdict]

    @property
    def summary(self) -> str:
        """One line."""
        if self.verdict == "unverified":
            return f"{self.path}: unverified, every byte is intact but there are no golden vectors"
        worst = max(self.errors.values(), default=0.0)
        return (
            f"{self.path}: {self.verdict}, {self.vectors} golden vectors on {self.providers[0]}, "
            f"largest relative error {worst:.2g} of {self.tolerance:.2g} allowed"
        )


def verify_bundle(path: str | Path, *, ep: str = "auto") -> BundleReport:
    """Check every byte, then run the golden vectors on `ep` and compare every output.

    Raises IntegrityError, UnsafePathError, ResourceLimitError, ModelFormatError, ProviderError.
    """
    with load(path, ep=ep) as session:
        if session.bundle is None:
            raise InputError(f"{path}: a model, not a bundle", hint="compare two models with edgeai verify A B")
        golden = session.bundle.golden()
        errors: dict[str, float] = {}
        for inputs, expected in golden.pairs() if golden else ():
            for name, error in _errors(session, inputs, expected).items():
                errors[name] = float(np.maximum(error, errors.get(name, 0.0)))  # NaN must win
        limit = golden.tolerance if golden else None
        failed = [name for name, error in errors.items() if limit is not None and not error <= limit]
        findings = [f"output {name}: relative error {errors[name]:.3g}, allowed {limit:.3g}" for name in failed]
        return BundleReport(
            path=Path(path),
            verdict="failed" if failed else "verified" if errors else "unverified",
            providers=session.providers,
            placement=session.placement.summary,
            vectors=len(golden.inputs) if golden else 0,
            tolerance=limit,
            errors=errors,
            findings=(*findings, *session.notes),
        )


def relative_error(expected: Array, actual: Array) -> float:
    """Largest absolute difference over the largest finite expected magnitude; infinite where shape, dtype, NaN or
    infinities differ.
    """
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return float("inf")
    if expected.dtype.kind not in "biufc":
        return 0.0 if np.array_equal(expected, actual) else float("inf")
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    a, b = expected.astype(wide), actual.astype(wide)
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(b[finite]).all():
        return float("inf")
    difference = np.abs(a[finite] - b[finite]).max(initial=0.0)
    return float(difference / max(np.abs(a[finite]).max(initial=0.0), 1e-12))


def _errors(engine: Engine, inputs: Mapping[str, Array], expected: Mapping[str, Array]) -> dict[str, float]:
    answers = engine.run(inputs)
    # An output that the golden vectors do not know, or the model no longer gives, is as wrong as it can be.
    return {
        name: relative_error(expected[name], answers[name]) if name in expected and name in answers else float("inf")
        for name in answers.keys() | expected.keys()
    }
