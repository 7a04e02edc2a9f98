"""Which inputs and outputs of an operator may be in half precision, read from the operators' own schemas.

So an operator that nobody has thought of is handled or left alone, never guessed at.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import onnx_ir as ir

from edgeai.ort import onnxruntime


def half_positions(node: ir.Node, model: ir.Model) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which inputs and which outputs may be half, and then must be so together; none for an unknown operator."""
    found = _schema(node.domain, node.op_type, model.opset_imports.get(node.domain, 1))
    if found is None:
        return (), ()
    parameters, results, halves = found
    inputs = tuple(i for i, value in enumerate(node.inputs) if value is not None and _kind(parameters, i) in halves)
    kinds = {_kind(parameters, i) for i in inputs}
    return inputs, tuple(i for i in range(len(node.outputs)) if _kind(results, i) in kinds)


def _kind(parameters: tuple[str, ...], index: int) -> str:
    return parameters[min(index, len(parameters) - 1)] if parameters else ""


_Schema = tuple[tuple[str, ...], tuple[str, ...], frozenset[str]]


@cache
def _schema(domain: str, op_type: str, opset: int) -> _Schema | None:
    """Type variables of inputs and outputs, and which of the variables may be half."""
    versions = [schema for schema in _schemas().get((domain, op_type), []) if schema.since_version <= opset]
    if not versions:
        return None
    schema = max(versions, key=lambda schema: schema.since_version)
    halves = frozenset(
        constraint.type_param_str
        for constraint in schema.type_constraints
        if {"tensor(float16)", "tensor(float)"} <= set(constraint.allowed_type_strs)
    )
    return tuple(i.typeStr for i in schema.inputs), tuple(o.typeStr for o in schema.outputs), halves


@cache
def _schemas() -> dict[tuple[str, str], list[Any]]:
    """By domain and type: ONNX Runtime knows the standard operators and its own."""
    onnxruntime()
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

    table: dict[tuple[str, str], list[Any]] = {}
    for schema in get_all_operator_schema():
        table.setdefault((schema.domain, schema.name), []).append(schema)
    return table
