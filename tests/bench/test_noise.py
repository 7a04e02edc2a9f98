import os
from pathlib import Path

import pytest

from edgeai.bench.noise import Noise, observe


def test_pressure_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (0.4, 9.0, 9.0))
    path = tmp_path / "cpu"
    path.write_text("some avg10=1.25 avg60=0.11 avg300=0.11 total=3603546\nfull avg10=9.00 total=9\n")
    assert observe(path) == Noise(0.4, 1.25, 3603546)


@pytest.mark.parametrize("text", [None, "", "some avg10=\n", "some avg60=1.0 total=1\n"])
def test_what_cannot_be_read_is_none_with_its_reason(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "cpu"
    if text is not None:
        path.write_text(text)
    seen = observe(path)
    assert (seen.pressure_avg10, seen.pressure_total_us) == (None, None)
    assert str(path) in seen.reason


def test_no_load_average(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unobtainable() -> tuple[float, float, float]:
        raise OSError("unobtainable")

    monkeypatch.setattr(os, "getloadavg", unobtainable)
    seen = observe(tmp_path / "missing")
    assert seen.load_1min is None
    assert seen.reason.startswith("load average: unobtainable; ")
