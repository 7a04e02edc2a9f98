"""How fast a bundle answers its own golden vectors: recorded when it is made, asked again where it runs."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgeai import bench
from edgeai.bundle import open_bundle
from edgeai.errors import BenchmarkError
from edgeai.machine import machine
from edgeai.progress import SILENT, Progress
from edgeai.runtime.providers import resolve

RECORD = "speed"  # its name among a manifest's results

# A bundle may take this much longer than where it was made before that is called a loss: on a shared machine the
# same file differs by a fifth from one hour to the next.
TOLERANCE = 0.25
_LOOKS = 3

WORKLOAD = bench.Workload(
    min_iterations=100, min_seconds=0.5, max_seconds=4.0, warmup_min_seconds=0.1, warmup_max_seconds=2.0, rounds=8
)


@dataclass(frozen=True)
class Speed:
    """Median latency of one golden vector with its 95 % interval, on `provider` of the machine `fingerprint`."""

    p50_ns: int
    low_ns: int
    high_ns: int
    provider: str
    fingerprint: str

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Speed | None:
        """None for what is no such record: a bundle of an earlier version, or of another maker."""
        try:
            p50, low, high = (int(data[name]) for name in ("p50_ns", "low_ns", "high_ns"))
            return cls(p50, low, high, str(data["provider"]), str(data["fingerprint"]))
        except (KeyError, TypeError, ValueError, OverflowError):  # 1e999 is infinity to json
            return None


@dataclass(frozen=True)
class SpeedCheck:
    """`within` the band, `degraded` (slower than the band allows), `not comparable` (another kind of machine or
    provider) or `not recorded`; `text` is the sentence about it. `here` is None where nothing was measured.
    """

    verdict: Literal["within", "degraded", "not comparable", "not recorded"]
    text: str
    recorded: Speed | None = None
    here: Speed | None = None


def measure_speed(
    bundle: str | Path,
    *,
    ep: str = "auto",
    workload: bench.Workload = WORKLOAD,
    progress: Progress = SILENT,
) -> Speed:
    """Measure a bundle in a process of its own, in its own session settings, on its golden inputs.

    Raises BenchmarkError if it has none, and what opening it raises.
    """
    provider = resolve(ep)[0]
    with open_bundle(bundle) as opened, tempfile.TemporaryDirectory(prefix="edgeai-speed-") as name:
        golden = opened.golden()
        if golden is None:
            raise BenchmarkError(f"{bundle}: no golden vectors to measure with", hint="pack it with golden vectors")
        inputs = Path(name) / "golden.npz"
        golden.inputs.save(inputs)
        arguments = {"path": str(Path(bundle).resolve()), "ep": provider}
        subject = bench.Subject("bundle", "edgeai.runtime.loading:load", arguments, preload="edgeai.ort:onnxruntime")
        report = bench.measure([subject], inputs, workload, progress=progress)
    if report.interrupted:
        raise KeyboardInterrupt  # half a measurement is no record
    result = report["bundle"]
    p50 = result.statistics["p50"]
    medians = [float(np.median(block.samples_ns)) for block in result.blocks]
    low, high = (p50.low, p50.high) if p50.low and p50.high else (min(medians), max(medians))
    return Speed(int(np.median(result.samples_ns)), int(low), int(high), provider, machine().fingerprint)


def comparable(recorded: Speed | None, provider: str) -> SpeedCheck | None:
    """Why measuring would tell nothing; None where it would. `provider` is the one that runs here."""
    if recorded is None:
        return SpeedCheck("not recorded", "the bundle records no speed")
    if recorded.fingerprint != machine().fingerprint:
        text = f"speed not comparable: recorded on {recorded.fingerprint}, this is {machine().fingerprint}"
        return SpeedCheck("not comparable", text, recorded)
    if recorded.provider != provider:
        text = f"speed not comparable: recorded on provider {recorded.provider}, here it is {provider}"
        return SpeedCheck("not comparable", text, recorded)
    return None


def compare(recorded: Speed, here: Speed) -> SpeedCheck:
    """Slower is only what lies beyond the band with its whole interval; faster is never a loss."""
    if (other := comparable(recorded, here.provider)) is not None:
        return dataclasses.replace(other, here=here)
    limit_ns = recorded.high_ns * (1 + TOLERANCE)
    said = f"{here.p50_ns / 1e6:.3g} ms, {recorded.p50_ns / 1e6:.3g} ms when it was made"
    if here.low_ns > limit_ns:
        text = f"slower than it was proven to be: {said}, at most {limit_ns / 1e6:.3g} ms allowed"
        return SpeedCheck("degraded", text, recorded, here)
    return SpeedCheck("within", f"as fast as it was proven to be: {said}", recorded, here)


def check_speed(
    bundle: str | Path,
    *,
    ep: str = "auto",
    workload: bench.Workload = WORKLOAD,
    progress: Progress = SILENT,
) -> SpeedCheck:
    """Measure `bundle` here, if that can be compared with what it records, and compare.

    A loss is measured again, twice at most: what disturbs a machine goes by, what made the bundle slower stays.
    """
    with open_bundle(bundle) as opened:
        kept = opened.contents.results.get(RECORD)
    recorded = Speed.from_json(kept) if isinstance(kept, Mapping) else None
    unlike = comparable(recorded, resolve(ep)[0])
    if unlike is not None or recorded is None:
        return unlike or SpeedCheck("not recorded", "the bundle records no speed")
    for _ in range(_LOOKS):
        check = compare(recorded, measure_speed(bundle, ep=ep, workload=workload, progress=progress))
        if check.verdict != "degraded":
            break
    return check
