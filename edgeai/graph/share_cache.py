"""A decoder that writes its cache in place: one buffer for past and present, nothing copied from token to token."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from edgeai.artifact import Artifact
from edgeai.comparison import difference
from edgeai.errors import OptimizationError, UsageError
from edgeai.external import metadata
from edgeai.graph.applying import apply
from edgeai.graph.forms import NARROW_FORMS
from edgeai.modelfile import load, signature_of
from edgeai.progress import SILENT, Progress
from edgeai.runtime.kv_cache import CACHE_KEY, IDS, IN_PLACE, MASK, Cache, HandedCache, Layout, open_cache
from edgeai.runtime.loading import load as open_session
from edgeai.samples import Samples
from edgeai.spec import Axis, Signature
from edgeai.storage import atomic_files
from edgeai.verification import EXACT

# Tokens run at once, and then how many to forget: a prompt in pieces, single tokens, guesses that were wrong.
_STEPS = ((7, 0), (1, 0), (1, 0), (5, 3), (3, 0), (1, 0), (1, 9), (4, 4), (1, 0))
# Of the buffers that are tried: some of it is always free. All that the model may know at once could be gigabytes.
_MOST = 64


def share_cache(
    artifact: Artifact,
    *,
    out: str | Path,
    target: str = "cpu",
    samples: Samples | None = None,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> Artifact:
    """Write `artifact`, a decoder, in the form `in-place` to `out`, its metadata saying that its cache may be in place.

    Its logits are computed only where they are asked for (`KeepLogits`). The result is for a batch of one: ONNX
    Runtime's operator takes no more when a prompt comes in pieces. It has answered `samples` and generated feeds as
    `artifact` does (see `optimize`), and then, with one buffer for past and present that holds another text's rest,
    steps of all kinds. Raises UsageError for a model that is no decoder or takes no single text, OptimizationError if
    it cannot be rewritten so or answers differently then; ExistsError if `out` is there.
    """
    out = Path(out)
    signature = artifact.signature or signature_of(load(artifact.path))
    Layout.of(signature)
    rows = _axis(signature, IDS, 0)
    least, most = (rows, rows) if isinstance(rows, int) else _extent(signature, rows)
    if least > 1:
        raise UsageError(
            f"{artifact.path} takes at least {least} texts at once, and in place only one can be continued"
        )
    if isinstance(rows, str):
        axes = tuple(axis for axis in signature.axes if axis.name != rows)
        signature = dataclasses.replace(signature, axes=(Axis(rows, 1, 1), *axes))
    if most > 1:
        progress.log(f"{out} takes one text at a time, {artifact.path} up to {most}")
    narrow = dataclasses.replace(artifact, signature=signature)
    with atomic_files(out, overwrite=overwrite) as directory:
        done = apply(
            NARROW_FORMS[IN_PLACE].passes, narrow, out=directory / out.name, form=IN_PLACE, target=target,
            samples=samples, progress=progress,
        )  # fmt: skip
        if metadata(done.path).get(CACHE_KEY) != IN_PLACE:
            refused = done.lineage[-1].options["rolled_back"]
            why = refused[0]["reason"] if refused else "not every layer's attention was recognized"
            raise OptimizationError(
                f"{artifact.path}: the cache cannot be written in place: {why}",
                hint="start from the model as it was exported",
            )
        if reason := cache_objection(artifact.path, done.path, signature):
            raise OptimizationError(f"{out} is not written: with its cache in place {reason}")
    return dataclasses.replace(done, path=out)


def _extent(signature: Signature, name: str) -> tuple[int, int]:
    axis = signature.axis(name)
    return axis.minimum, axis.maximum


def _axis(signature: Signature, name: str, axis: int) -> int | str:
    (found,) = (spec.shape[axis] for spec in signature.inputs if spec.name == name)
    return found


def cache_objection(original: Path, candidate: Path, signature: Signature) -> str:
    """Where logits over the candidate's own cache differ from the original's, whose presents are handed back as pasts.

    In a few words; empty if nowhere. Both may be one file: then its cache alone is in question.
    """
    total = _axis(signature, MASK, 1)
    capacity = min(_MOST, total if isinstance(total, int) else signature.axis(total).maximum)
    (ids,) = (spec for spec in signature.inputs if spec.name == IDS)
    random = np.random.default_rng(0)
    with open_session(original, ep="cpu") as first, open_session(candidate, ep="cpu") as second:
        caches: tuple[Cache, ...] = (
            HandedCache(first, Layout.of(first.signature), 1, capacity),
            open_cache(second, 1, capacity),
        )
        for text in range(2):
            for cache in caches:
                cache.truncate(0)
            for count, forgotten in _STEPS:
                fed = random.integers(0, ids.high or 2, (1, min(count, capacity - caches[0].length)))
                total = caches[0].length + fed.shape[1]
                if not fed.size:
                    break
                # Integers are scaled over all rows of a product: fewer would be other answers of the same cache.
                keep = fed.size if original == candidate else int(random.integers(1, fed.size + 1))
                want, got = (cache.advance(fed, np.ones((1, total), np.int64), keep=keep) for cache in caches)
                found = difference(want, got)
                if found.error > EXACT.verified:
                    return (
                        f"text {text}: {fed.shape[1]} tokens up to {total} are off by {found.error:.2g} of their scale"
                    )
                for cache in caches:
                    cache.truncate(max(total - forgotten, 0))
    return ""
