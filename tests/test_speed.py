"""The speed band: what a bundle records, and when that can be compared with here."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgeai import bench, modelfile
from edgeai.artifact import Artifact
from edgeai.bench import Workload
from edgeai.bundle import Golden, pack
from edgeai.errors import BenchmarkError
from edgeai.machine import machine
from edgeai.samples import Samples
from edgeai.speed import RECORD, TOLERANCE, Speed, check_speed, compare, measure_speed
from edgeai.verifying import verify_bundle

QUICK = Workload(
    min_iterations=10, max_iterations=20, min_seconds=0, max_seconds=1, warmup_min_seconds=0, warmup_max_seconds=0.1,
    settle_seconds=0, rounds=3,
)  # fmt: skip
HERE = Speed(1_000_000, 900_000, 1_100_000, "cpu", machine().fingerprint)
NEVER, ALWAYS = 1, 10**15  # nanoseconds that nothing reaches, and that everything does


def bundle(directory: Path, recorded: Speed | None, *, golden: bool = True) -> Path:
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[n, 3] x) => (float[n, 3] y) { y = Relu(x) }'
    )
    model = modelfile.ir.from_proto(proto)
    artifact = modelfile.save(model, Artifact(directory / "m.onnx", (), modelfile.signature_of(model)))
    x = np.ones((2, 3), np.float32)
    answers = Golden(Samples.from_feeds([{"x": x}]), Samples.from_feeds([{"y": x}]))
    results = {} if recorded is None else {RECORD: recorded.to_json()}
    pack(artifact, directory / "m.bundle", golden=answers if golden else None, results=results).close()
    return directory / "m.bundle"


def recorded(nanoseconds: int, **other: str) -> Speed:
    return dataclasses.replace(HERE, p50_ns=nanoseconds, low_ns=nanoseconds, high_ns=nanoseconds, **other)


@pytest.mark.parametrize(
    ("low_ns", "verdict"),
    [
        (100, "within"),
        (int(HERE.high_ns * (1 + TOLERANCE)), "within"),
        (int(HERE.high_ns * (1 + TOLERANCE)) + 1, "degraded"),
    ],
)
def test_the_band_ends_where_it_says(low_ns: int, verdict: str) -> None:
    check = compare(HERE, dataclasses.replace(HERE, p50_ns=low_ns + 10, low_ns=low_ns, high_ns=low_ns + 20))
    assert check.verdict == verdict
    assert "1 ms when it was made" in check.text
    assert ("at most 1.38 ms allowed" in check.text) == (verdict == "degraded")


def test_a_record_survives_json_and_a_strange_one_is_none() -> None:
    assert Speed.from_json(HERE.to_json()) == HERE
    assert Speed.from_json({"p50_ns": "soon"}) is None
    assert Speed.from_json({}) is None
    assert Speed.from_json(HERE.to_json() | {"p50_ns": float("inf")}) is None


def test_a_slow_bundle_is_degraded_and_a_fast_one_is_not(tmp_path: Path) -> None:
    slow = verify_bundle(bundle(tmp_path, recorded(NEVER)), workload=QUICK, ep="cpu")
    assert (slow.verdict, slow.exit_code) == ("degraded", 3)
    assert "slower than it was proven to be" in slow.summary
    assert slow.answers.verdict == "verified"
    assert slow.to_json()["verdict"] == "degraded" and slow.to_json()["speed"]["here"]["p50_ns"] > 0
    assert verify_bundle(tmp_path / "m.bundle", speed=False, ep="cpu").verdict == "verified"


@pytest.mark.parametrize(("slow", "verdict", "looks"), [(2, "within", 3), (9, "degraded", 3), (0, "within", 1)])
def test_a_loss_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: int, verdict: str, looks: int
) -> None:
    taken: list[int] = []

    def measured(*_: object, **__: object) -> Speed:
        taken.append(1)
        return recorded(ALWAYS if len(taken) <= slow else NEVER)

    monkeypatch.setattr("edgeai.speed.measure_speed", measured)
    assert check_speed(bundle(tmp_path, recorded(NEVER)), ep="cpu").verdict == verdict
    assert len(taken) == looks


def test_faster_than_recorded_is_no_loss(tmp_path: Path) -> None:
    proof = verify_bundle(bundle(tmp_path, recorded(ALWAYS)), workload=QUICK, ep="cpu")
    assert (proof.verdict, proof.exit_code) == ("verified", 0)
    assert proof.speed is not None and proof.speed.verdict == "within"


@pytest.mark.parametrize(
    ("kept", "verdict", "text"),
    [
        (None, "not recorded", "records no speed"),
        (recorded(NEVER, fingerprint="a toaster"), "not comparable", "recorded on a toaster"),
        (recorded(NEVER, provider="cuda"), "not comparable", "recorded on provider cuda, here it is cpu"),
    ],
)
def test_what_cannot_be_compared_is_not_measured(tmp_path: Path, kept: Speed, verdict: str, text: str) -> None:
    proof = verify_bundle(bundle(tmp_path, kept), ep="cpu")
    assert proof.speed is not None and proof.speed.here is None
    assert (proof.verdict, proof.speed.verdict) == ("verified", verdict)
    assert text in proof.summary


def test_without_golden_vectors_there_is_nothing_to_measure_with(tmp_path: Path) -> None:
    path = bundle(tmp_path, recorded(NEVER), golden=False)
    assert verify_bundle(path, ep="cpu").exit_code == 4
    with pytest.raises(BenchmarkError, match="no golden vectors"):
        measure_speed(path, ep="cpu")


def test_an_interrupted_measurement_is_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any, **options: Any) -> bench.Report:
        return dataclasses.replace(measure(*arguments, **options), interrupted=True)

    measure = bench.measure
    monkeypatch.setattr(bench, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure_speed(bundle(tmp_path, None), ep="cpu", workload=QUICK)


def test_what_is_measured_is_the_bundle_as_it_runs(tmp_path: Path) -> None:
    path = bundle(tmp_path, None)
    speed = measure_speed(path, ep="cpu", workload=QUICK)
    assert 0 < speed.low_ns <= speed.p50_ns <= speed.high_ns
    assert (speed.provider, speed.fingerprint) == ("cpu", machine().fingerprint)
    assert check_speed(path, ep="cpu").verdict == "not recorded"
