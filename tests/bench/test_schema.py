"""The published schema is the one that real reports fit, and nothing else does."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from bench_reports import report_of, result

from edgeai.bench import Report, Subject, Workload, measure
from edgeai.bench.schema import PATH, report_schema, schema_text

QUICK = Workload(
    min_iterations=20, max_iterations=30, min_seconds=0, rounds=5, warmup_min_seconds=0, warmup_max_seconds=0.05,
    settle_seconds=0,
)  # fmt: skip


def faults(value: Any, schema: dict[str, Any], root: dict[str, Any], where: str = "$") -> list[str]:
    """What is wrong with `value`, for the keywords that the schema uses; another keyword is an error of the test."""
    unknown = set(schema) - {
        *("$id", "$schema", "$defs", "$ref", "title", "description", "type", "properties", "required"),
        *("additionalProperties", "items", "anyOf", "const"),
    }
    assert not unknown, unknown
    found: list[str] = []
    if "$ref" in schema:
        found += faults(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, where)
    if "const" in schema and value != schema["const"]:
        found.append(f"{where}: not {schema['const']!r}")
    if "anyOf" in schema and all(faults(value, option, root, where) for option in schema["anyOf"]):
        found.append(f"{where}: {value!r} is none of the choices")
    kinds: dict[str, Any] = {
        "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
        "null": type(None),
    }  # fmt: skip
    if "type" in schema:
        wanted = schema["type"]
        if not isinstance(value, kinds[wanted]) or (isinstance(value, bool) and wanted != "boolean"):
            return [*found, f"{where}: {value!r} is no {wanted}"]
    if isinstance(value, dict):
        named, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
        found += [f"{where}: no {name}" for name in schema.get("required", ()) if name not in value]
        for name, item in value.items():
            if name in named:
                found += faults(item, named[name], root, f"{where}.{name}")
            elif rest is False:
                found.append(f"{where}: {name} is unknown")
            elif isinstance(rest, dict):
                found += faults(item, rest, root, f"{where}.{name}")
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            found += faults(item, schema["items"], root, f"{where}[{index}]")
    return found


def test_the_shipped_file_is_the_schema_of_this_version() -> None:
    assert PATH.read_text(encoding="utf-8") == schema_text(), "run: python -m edgeai.bench.schema"
    assert json.loads(schema_text()) == report_schema()


def test_real_reports_fit_it_and_damaged_ones_do_not(samples_path: Path) -> None:
    schema = json.loads(PATH.read_text(encoding="utf-8"))
    subjects = [Subject(name, "bench_engines:sleeping", {"seconds": 0.0005}) for name in ("a", "b")]
    server = Workload(
        scenario="server", latency_bound_ms=1000, tail_percent=50, min_iterations=20, max_iterations=30, min_seconds=0,
        rounds=5, warmup_min_seconds=0, warmup_max_seconds=0.05, settle_seconds=0,
    )  # fmt: skip
    reports = [
        measure(subjects, samples_path, QUICK, thorough=True),
        measure(subjects[:1], samples_path, server),
        report_of(result("hand-made", [10] * 10)),
    ]
    assert reports[1]["a"].capacity is not None
    for report in reports:
        data = json.loads(report.to_json())
        assert faults(data, schema, schema) == []
        assert Report.from_json(report.to_json()) == report
    data = json.loads(reports[0].to_json())
    for damage, fault in (
        (lambda d: d.pop("seed"), "$: no seed"),
        (lambda d: d.update(schema=1), "$.schema: not 2"),
        (lambda d: d.update(surprise=1), "$: surprise is unknown"),
        (lambda d: d["subjects"][0].update(size_bytes="much"), "$.subjects[0].size_bytes"),
        (lambda d: d["subjects"][1]["blocks"][0]["samples_ns"].append(0.5), "0.5 is no integer"),
        (lambda d: d["workload"].update(batch=True), "True is no integer"),
    ):
        broken = copy.deepcopy(data)
        damage(broken)
        assert any(fault in found for found in faults(broken, schema, schema)), fault


def test_another_implementation_agrees(samples_path: Path) -> None:
    jsonschema = pytest.importorskip(
        "jsonschema", reason="jsonschema is not installed: only our own validator was used"
    )
    schema = json.loads(PATH.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    report = measure([Subject("a", "bench_engines:sleeping", {})], samples_path, QUICK)
    jsonschema.validate(json.loads(report.to_json()), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads(report.to_json()) | {"surprise": 1}, schema)
