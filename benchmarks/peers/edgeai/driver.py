"""edgeai's own driver, on the same terms as the others: a file in, a file out, and an answer for each feed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from protocol import Feed, Feeds, Run, serve

import edgeai
from edgeai import building
from edgeai.artifact import Artifact
from edgeai.graph import optimize
from edgeai.metrics import COSINE, METRICS
from edgeai.modelfile import open_artifact
from edgeai.quantization import RECIPES, quantize
from edgeai.runtime.kv_cache import IDS, MASK, open_cache
from edgeai.samples import Samples
from edgeai.tuning import automatic
from edgeai.tuning.splits import Splits

POSITIONS = 1024  # as many as llama.cpp gets


def recipe(
    source: Path,
    out: Path,
    calibration: Feeds,
    *,
    name: str,
    form: str | None = None,
    max_drop: float | None = None,
    **options: Any,
) -> None:
    """As `edgeai build` does: the graph rewritten (to `form`, or portably), then one recipe with its defaults.

    With `max_drop` layers stay in float until the cosine drops by no more.
    """
    chosen = RECIPES[name](**options)
    samples = Samples.from_feeds(calibration)
    with tempfile.TemporaryDirectory() as directory:
        made = _rewritten(source, directory, form)
        if max_drop is None:
            quantize(made, chosen, samples=samples if chosen.needs_samples else None, out=out)
            return
        found = automatic.search(made, samples, out=out, metric=COSINE, max_drop=max_drop, recipes=[chosen], force=True)
        automatic.require_kept(found)


def rewritten(source: Path, out: Path, calibration: Feeds, *, form: str) -> None:  # noqa: ARG001
    """Another form of the float graph."""
    optimize(open_artifact(source), out=out, form=form)


def auto(source: Path, out: Path, calibration: Feeds, *, search: str, score: str, metric: str, max_drop: float) -> None:
    """`-p auto --max-drop`; where nothing is better than the float file, that file."""
    splits = Splits(Samples.from_feeds(calibration), Samples.load(search), Samples.load(score))
    with tempfile.TemporaryDirectory() as directory:
        portable = _rewritten(source, directory, None)
        report = automatic.quantize_auto(portable, splits, METRICS[metric], out=out, max_drop=max_drop)
        if report.artifact is None:
            shutil.copy(portable.path, out)


def build(source: Path, out: Path, calibration: Feeds, *, seconds: float = building.SECONDS) -> None:
    """`edgeai build --time-budget`: whatever it chooses, as a bundle."""
    building.build(str(source), Samples.from_feeds(calibration), out=out, seconds=seconds)


def session(source: Path, *, settings: Mapping[str, object] | None = None, prompt: Sequence[int] | None = None) -> Run:
    """A file or a bundle, in the settings that ship.

    With `prompt`, as generation does it: the logits after the last of the tokens that follow, from a cache that the
    prompt is in already, and not from the feed's.
    """
    opened = edgeai.load(source, ep="cpu", settings=settings)
    if prompt is not None:
        cache, known = open_cache(opened, 1, POSITIONS), np.array([prompt], np.int64)
        if prompt:
            cache.advance(known, np.ones_like(known), keep=1)

        def run(feed: Feed) -> np.ndarray:
            cache.truncate(len(prompt))
            return cache.advance(feed[IDS], feed[MASK], keep=1)

        return run
    first = opened.signature.output_names[0]
    return lambda feed: opened.run(feed)[first]


def _rewritten(source: Path, directory: str, form: str | None) -> Artifact:
    return optimize(open_artifact(source), out=Path(directory, "rewritten.onnx"), form=form or "portable")


if __name__ == "__main__":
    serve(
        recipes={"recipe": recipe, "rewritten": rewritten, "auto": auto, "build": build},
        forms={"session": session},
        packages=("edgeai", "onnxruntime-gpu", "onnx", "torch", "numpy"),
    )
