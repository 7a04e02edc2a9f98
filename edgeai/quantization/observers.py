"""Run the model over the samples and see what its tensors hold, feed after feed.

What is kept is one histogram a tensor; of the activations themselves, those of two feeds at most, and no more of them
at a time than a budget allows: past it the tensors are observed in several passes. While one feed is counted the next
ones run: two runs on half of the cores each leave fewer idle than one run on all.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeai.errors import DataError, QuantizationError
from edgeai.machine import machine
from edgeai.progress import SILENT, Progress
from edgeai.quantization.calibration import Calibration, kept, model_digest
from edgeai.quantization.reused_memory import reused_memory
from edgeai.quantization.statistics import Statistics
from edgeai.quantization.watching import TOGETHER, answers, open_watching
from edgeai.samples import Samples, digest
from edgeai.spec import Array, Feed, Signature

# Of one feed's activations. A pass costs a run of the model, so fewer are better; this fits beside any model
# that is worth calibrating.
BUDGET_BYTES = 256 << 20
_SAVE_EVERY_S = 30.0
_THREADS = 3  # that count at a time: numpy.bincount is half of the work and does not let go of the interpreter
_WORTH_THREADS_BYTES = 4 << 20


def observe(
    model: ir.Model,
    watch: Mapping[str, int | None],
    signature: Signature,
    samples: Samples,
    *,
    cache: Path | None = None,
    budget_bytes: int = BUDGET_BYTES,
    progress: Progress = SILENT,
) -> Calibration:
    """Run `model` on all `samples` and watch those of the tensors that are float32.

    `watch` maps names to the axis whose channels are counted too, or to None. In the directory `cache` the result is
    kept by the content of model and samples: what it holds already is not observed again, and an interrupted
    observation continues. Without it nothing is written.

    Raises InputError for samples that do not fit the signature, QuantizationError where a tensor is NaN or the model
    does not run.
    """
    feeds = tuple(digest(feed) for feed in calibration_feeds(signature, samples))
    path, calibration = _begin(model, feeds, cache)
    tensors = calibration.tensors
    for name, axis in watch.items():
        if name in tensors and not _has_channels(tensors[name], axis):
            del tensors[name]
    known = calibration.others | {name for name, seen in tensors.items() if seen.feeds == len(feeds)}
    if wanted := {name: axis for name, axis in watch.items() if name not in known}:

        def save() -> None:
            if path is not None:
                calibration.save(path, overwrite=True)

        _Observation(model, wanted, signature, samples, calibration, save, budget_bytes, progress).run()
        save()
    return dataclasses.replace(calibration, tensors={name: tensors[name] for name in watch if name in tensors})


def _has_channels(seen: Statistics, axis: int | None) -> bool:
    return axis is None or bool(seen.histogram.marks) or (seen.channels is not None and seen.channels.axis == axis)


def _begin(model: ir.Model, feeds: tuple[str, ...], cache: Path | None) -> tuple[Path | None, Calibration]:
    found = model_digest(model)
    if cache is None:
        return None, Calibration(found, feeds, {})
    try:
        return kept(cache, found, feeds)
    except DataError as error:
        raise QuantizationError(f"calibration cache: {error.message}", hint="remove that file") from error


class _Observation:
    """One call of `observe`: plans passes over the feeds, and makes them."""

    def __init__(
        self,
        model: ir.Model,
        watch: Mapping[str, int | None],
        signature: Signature,
        samples: Samples,
        calibration: Calibration,
        save: Callable[[], None],
        budget_bytes: int,
        progress: Progress,
    ) -> None:
        self._model, self._watch, self._signature, self._samples = model, watch, signature, samples
        self._calibration, self._tensors = calibration, calibration.tensors
        self._save, self._budget, self._progress = save, budget_bytes, progress
        self._sizes: dict[str, int] = {}  # name -> bytes in the largest feed

    def run(self) -> None:
        inputs = {spec.name for spec in self._signature.inputs if spec.dtype == "float32"}
        pending = self._by_progress()
        while pending:
            group = pending.pop(0)
            gc.collect()  # graphs are cycles of references: the weights of those that nobody needs any more go now
            with tempfile.TemporaryDirectory(prefix="edgeai-") as directory, reused_memory():
                path = Path(directory) / "observed.onnx"
                session = open_watching(self._model, set(group), path, threads=max(1, machine().cores // TOGETHER))
                computed = {o.name: o.shape for o in session.get_outputs() if o.type == "tensor(float)"}
                self._calibration.others.update(name for name in group if name not in computed and name not in inputs)
                group = [name for name in group if name in computed or name in inputs]
                self._estimate({name: computed[name] for name in group if name in computed})
                groups = self._groups(group)
                if len(groups) == 1:
                    groups = self._pass(session, group, [name for name in group if name in computed])
                pending[:0] = groups
            del session

    def _by_progress(self) -> list[list[str]]:
        """The tensors by how many feeds each has seen: an interruption leaves them at different places."""
        found: dict[int, list[str]] = {}
        for name in self._watch:
            found.setdefault(self._seen(name), []).append(name)
        return list(found.values())

    def _seen(self, name: str) -> int:
        return self._tensors[name].feeds if name in self._tensors else 0

    def _groups(self, names: list[str]) -> list[list[str]]:
        """Split `names` so that what each group holds in the largest feed fits the budget."""
        groups: list[list[str]] = []
        held = 0
        for name in names:
            size = self._sizes.get(name, 0)
            if not groups or held + size > self._budget:
                groups.append([])
                held = 0
            groups[-1].append(name)
            held += size
        return groups

    def _estimate(self, shapes: Mapping[str, list[int | str | None]]) -> None:
        """Bytes of each tensor from the axes that ONNX Runtime inferred; what it cannot tell is measured later."""
        unknown = {name: shape for name, shape in shapes.items() if name not in self._sizes}
        feeds = calibration_feeds(self._signature, self._samples) if unknown else iter(())
        for axes in {tuple(sorted(_axes(self._signature, feed).items())) for feed in feeds}:
            sizes = dict(axes)
            for name, shape in unknown.items():
                known = [d if isinstance(d, int) else sizes.get(str(d), 0) for d in shape]
                self._sizes[name] = max(self._sizes.get(name, 0), 4 * math.prod(known))

    def _pass(self, session: Any, group: list[str], computed: list[str]) -> list[list[str]]:
        """Observe `group` over all feeds that it has not seen; groups to go on with, if it proves too large for one."""
        skip, total = self._seen(group[0]), count_feeds(self._signature, self._samples)
        consistent, saved = True, time.monotonic()
        feeds = itertools.islice(calibration_feeds(self._signature, self._samples), skip, None)
        runs, threads = ThreadPoolExecutor(TOGETHER), ThreadPoolExecutor(min(_THREADS, machine().cores))
        with runs, threads, self._progress.task("calibrate", total - skip) as advance:
            try:
                for index, arrays in enumerate(answers(session, computed, feeds, runs), skip):
                    consistent = False
                    for name in computed:  # an input is held anyway
                        self._sizes[name] = max(self._sizes.get(name, 0), arrays[name].nbytes)
                    self._take_in(group, arrays, index, threads)
                    consistent = True
                    advance()
                    if time.monotonic() - saved > _SAVE_EVERY_S:
                        self._save()
                        saved = time.monotonic()
                    if index + 1 < total and len(groups := self._groups(group)) > 1:
                        return groups
            except BaseException:
                if consistent:  # stopped between two feeds
                    self._save()
                raise
        return []

    def _take_in(self, group: list[str], arrays: dict[str, Array], index: int, threads: ThreadPoolExecutor) -> None:
        """Each tensor for itself, so that the order in which threads come to them changes nothing."""
        for name in group:
            self._tensors.setdefault(name, Statistics())
        apart = sum(arrays[name].nbytes for name in group) > _WORTH_THREADS_BYTES
        each = threads.map if apart else map
        for _ in each(lambda name: self._observe(name, arrays.pop(name), index), group):
            pass

    def _observe(self, name: str, array: Array, index: int) -> None:
        try:
            self._tensors[name].observe(array, self._watch[name])
        except FloatingPointError as error:
            raise QuantizationError(
                f"calibration: tensor {name} is NaN in feed {index}, so it has no range",
                hint="the model or that sample is broken in floating point already",
            ) from error


def calibration_feeds(signature: Signature, samples: Samples) -> Iterator[Feed]:
    """Every sample in a feed that the model takes: rows one by one, or as many as its batch axis is fixed to.

    A last batch that is not full repeats its last row, which then counts more than once.
    Raises InputError for a sample that does not fit the signature.
    """
    batch = _batch(signature)
    for feed in samples.feeds(batch):
        if samples.rows:
            rows = len(next(iter(feed.values())))
            feed = {name: array[np.minimum(np.arange(batch), rows - 1)] for name, array in feed.items()}
        signature.check(feed)
        yield feed


def count_feeds(signature: Signature, samples: Samples) -> int:
    """How many feeds `calibration_feeds` yields."""
    return -(-len(samples) // _batch(signature)) if samples.rows else len(samples)


def _batch(signature: Signature) -> int:
    first = next((spec.shape[0] for spec in signature.inputs if spec.shape), 1)
    return first if isinstance(first, int) else max(1, signature.axis(first).minimum)


def _axes(signature: Signature, feed: Feed) -> dict[str, int]:
    """The sizes of the symbolic axes in `feed`."""
    pairs = (
        (axis, size) for spec in signature.inputs for axis, size in zip(spec.shape, feed[spec.name].shape, strict=True)
    )
    return {axis: size for axis, size in pairs if isinstance(axis, str)}
