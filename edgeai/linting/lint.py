"""Apply a target's rules to a model file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import onnx_ir as ir

from edgeai import modelfile
from edgeai.errors import UsageError
from edgeai.linting.cpu import NO_DOT_PRODUCT
from edgeai.linting.products import Facts, Product, products
from edgeai.linting.report import Caution, LintReport, Row
from edgeai.linting.rules import Rule, Warn
from edgeai.linting.targets import TARGETS
from edgeai.machine import Machine, machine
from edgeai.ort import onnxruntime
from edgeai.quantization.sessions import open_session
from edgeai.runtime.precise_sums import why_sums_fit

_SHOWN = 8  # node names of one kind


def lint(path: str | Path, *, target: str = "cpu", on: Machine | None = None) -> LintReport:
    """Say for every product of the model whether `target` runs it as integers, and why not.

    For the CPU ONNX Runtime optimizes the model first, as it does at every load, and the rules look at the result.
    The other targets are judged by their documented rules. `on` is the machine that the model will run on.

    Raises UsageError for an unknown target, ModelFormatError if the file is no model, QuantizationError if ONNX
    Runtime does not open it.
    """
    path = Path(path)
    if target not in TARGETS:
        raise UsageError(f"the linter knows no target {target!r}", hint=f"one of {', '.join(TARGETS)}")
    known = TARGETS[target]
    model = modelfile.load(path)
    facts = Facts.of(model, on or machine(), sums_fit=why_sums_fit(path))
    notes: list[str] = []
    if known.optimized:
        basis = f"the graph that ONNX Runtime {onnxruntime().__version__} optimized here"
        with tempfile.TemporaryDirectory(prefix="edgeai-") as directory:
            optimized = Path(directory) / "optimized.onnx"
            open_session(path, level="extended", optimized=optimized)
            rows, cautions = _judge(ir.load(optimized), facts, known.rules, known.warnings)
        if facts.sums_fit and not facts.machine.has_int8_dot_product:
            notes.append(f"no sums of uint8 x int8 are clamped, though {NO_DOT_PRODUCT}: {facts.sums_fit}")
    else:
        basis = "the file's own graph, by rule, not measured"
        rows, cautions = _judge(model, facts, known.rules, known.warnings)
    return LintReport(path, target, basis, rows, cautions, tuple(notes))


def _judge(
    model: ir.Model, facts: Facts, rules: Iterable[Rule], warnings: Iterable[Warn]
) -> tuple[tuple[Row, ...], tuple[Caution, ...]]:
    found = products(model, facts)
    groups: dict[tuple[str, Rule], list[Product]] = {}
    for product in found:
        rule = next(rule for rule in rules if rule.applies(product))
        groups.setdefault((product.node.op_type, rule), []).append(product)
    rows = [
        Row(
            op_type, rule.runs, rule.name, rule.reason, rule.source,
            len(group), sum(product.weights for product in group), _names(group),
        )
        for (op_type, rule), group in groups.items()
    ]  # fmt: skip
    cautions = [
        Caution(warning.name, warning.text, warning.source, len(group), _names(group))
        for warning in warnings
        if (group := [product for product in found if warning.applies(product)])
    ]
    return tuple(sorted(rows, key=lambda row: -row.weights)), tuple(cautions)


def _names(group: list[Product]) -> tuple[str, ...]:
    return tuple(product.name for product in group[:_SHOWN])
