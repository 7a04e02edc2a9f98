import json
from pathlib import Path
from typing import Any

import pytest

from edgeai.agreement import Agreement, Finding, MetricAgreement, OutputError, Severity
from edgeai.errors import DataError, VerificationError

OUTPUT = OutputError("logits", 0.25, 0.1, 0.99, (0, 3), 4.0, 5.0, (2, 10), "batch=2, normal values")
METRIC = MetricAgreement("accuracy", 0.9, 0.88, 0.0222, -0.01, 0.05, 400)


def judged(*severities: Severity, metric: MetricAgreement | None = None) -> Agreement:
    findings = tuple(Finding(severity, f"a {severity} thing") for severity in severities)
    shapes = ({"batch": 1, "seq": 7}, {"batch": 64, "seq": 2})
    return Agreement.judge(findings, (OUTPUT,), shapes=shapes, feeds=2, metric=metric)


@pytest.mark.parametrize(
    ("severities", "verdict", "code"),
    [
        ((), "verified", 0),
        (("note",), "verified", 0),
        (("note", "degraded"), "degraded", 3),
        (("degraded", "unverified"), "unverified", 4),
        (("note", "unverified", "failed", "degraded"), "failed", 1),
    ],
)
def test_the_worst_finding_decides(severities: tuple[Severity, ...], verdict: str, code: int) -> None:
    agreement = judged(*severities)
    assert (agreement.verdict, agreement.exit_code) == (verdict, code)


def test_the_summary_is_one_line_with_the_ranges_and_the_reason() -> None:
    summary = judged("note", "failed", metric=METRIC).summary
    assert "\n" not in summary
    assert summary.startswith("failed on 2 feeds (batch 1..64, seq 2..7), accuracy 0.9 -> 0.88 on 400 samples")
    assert summary.endswith("a failed thing")
    assert judged().summary.endswith("largest error 0.25")


def test_an_output_error_names_index_values_shape_and_feed() -> None:
    text = str(OUTPUT)
    assert text.startswith("logits[0, 3] 4 became 5")
    assert "(2, 10)" in text and "batch=2, normal values" in text


def test_require_verified_raises_with_the_first_reason() -> None:
    judged("note").require_verified("the model")
    with pytest.raises(VerificationError, match="the model failed verification: a failed thing, and 1 more"):
        judged("failed", "degraded").require_verified("the model")


@pytest.mark.parametrize("metric", [None, METRIC])
def test_json_round_trip(metric: MetricAgreement | None, tmp_path: Path) -> None:
    agreement = judged("degraded", "note", metric=metric)
    agreement.save(tmp_path / "a.json")
    assert Agreement.from_json(json.loads((tmp_path / "a.json").read_text())) == agreement


def test_what_is_no_agreement_is_refused() -> None:
    data: dict[str, Any] = judged("note").to_json()
    with pytest.raises(DataError, match="not an agreement: KeyError 'outputs'"):
        Agreement.from_json({key: value for key, value in data.items() if key != "outputs"})
    with pytest.raises(DataError, match="not an agreement: TypeError"):
        Agreement.from_json({**data, "findings": [{"severity": "note", "words": "x"}]})
