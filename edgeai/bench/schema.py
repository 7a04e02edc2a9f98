"""The published schema of a report. `python -m edgeai.bench.schema` writes the file that ships beside this module."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgeai.bench.decoding import json_schema
from edgeai.bench.report import SCHEMA, Report

PATH = Path(__file__).with_name("report.schema.json")


def report_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the JSON that `Report.save` writes."""
    schema = json_schema(Report)
    schema["$defs"]["Report"]["properties"]["schema"] = {"const": SCHEMA}
    return {"$id": f"urn:edgeai:benchmark-report:{SCHEMA}", "title": "A benchmark report of edgeai", **schema}


def schema_text() -> str:
    return json.dumps(report_schema(), indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(schema_text(), encoding="utf-8")
