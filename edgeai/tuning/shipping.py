"""A chosen point becomes a bundle: its own answers as golden vectors, its settings, its speed, how it was chosen."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeai.artifact import Artifact
from edgeai.bundle import Golden, pack
from edgeai.errors import VerificationError
from edgeai.machine import machine
from edgeai.progress import SILENT, Progress
from edgeai.runtime import load, verify_bundle
from edgeai.runtime.kv_cache import IN_PLACE
from edgeai.samples import Samples
from edgeai.speed import RECORD, measure_speed
from edgeai.tuning.candidates import Point
from edgeai.tuning.whole_texts import one_text

_EXACT, _LOSSY = 1e-3, 5e-2


def ship(
    artifact: Artifact,
    point: Point,
    golden: Samples,
    *,
    out: Path,
    results: Mapping[str, Any],
    task: Mapping[str, Any] | None = None,
    extras: Mapping[str, Path] | None = None,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> None:
    """Pack `artifact` with the settings of `point`, have the packed bundle repeat its answers, and measure it.

    `golden` are the inputs of the golden vectors. Raises VerificationError, with nothing written, if the bundle does
    not answer as the session did, and what `pack` raises.
    """
    with load(artifact.path, ep=point.provider, settings=point.settings) as session:
        feeds = list((one_text(golden) if point.plan.form == IN_PLACE else golden).feeds())
        expected = [session.run(feed) for feed in feeds]
    here = machine()
    contents: dict[str, Any] = {
        "golden": Golden(Samples.from_feeds(feeds), Samples.from_feeds(expected), _LOSSY if point.is_lossy else _EXACT),
        "task": task,
        "extras": extras,
        "settings": point.settings.to_json(),
        "proven_on": {
            "provider": point.provider, "architecture": here.architecture, "cpu": here.cpu,
            "features": list(here.features), "cores": here.cores,
        },
    }  # fmt: skip
    # Packed twice: the bundle gets its name only after another one of the same bytes has answered.
    with tempfile.TemporaryDirectory(prefix="edgeai-ship-") as name:
        trial = Path(name) / f"trial{out.suffix}"
        pack(artifact, trial, **contents).close()
        proof = verify_bundle(trial, ep=point.provider)
        if proof.verdict != "verified":
            raise VerificationError(
                f"{out} is not written: packed, it does not repeat its own answers: {proof.summary}"
            )
        speed = measure_speed(trial, ep=point.provider, progress=progress)
    kept = {**results, RECORD: speed.to_json()}
    pack(artifact, out, **contents, results=kept, overwrite=overwrite).close()
