"""Is a rewritten graph still the same model? Asked on feeds that the original has answered."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.comparison import difference, scale_of
from edgeai.errors import EdgeAIError, OptimizationError
from edgeai.machine import machine
from edgeai.ort import onnxruntime
from edgeai.probing import probe_feeds
from edgeai.runtime.loading import load
from edgeai.runtime.rehearsal import Shapes, deadly_shapes, shapes_of
from edgeai.samples import Samples
from edgeai.spec import Array, Feed, Signature
from edgeai.verification import EXACT, sample_batch

Run = Callable[[Feed], list[Array]]

# How far two float answers may lie apart, in units of the output's scale. A pass that computes something else
# (a Gelu by tanh for one by erf) is off by more. float64 outputs may well come out of float32 computation.
_FACTORS: Mapping[str, float] = {"bfloat16": 320.0, "float16": 40.0, "float32": 1.0, "float64": 1.0}

_MAX_SAMPLES = 4  # feeds of samples
_MAX_PROBES = 12  # every value style, then shapes
_SEED = 0


@dataclass(frozen=True)
class Proof:
    """Feeds, what the original answers to them, and the names it answers under."""

    signature: Signature
    feeds: tuple[tuple[str, Feed], ...]  # (description, feed)
    answers: tuple[list[Array], ...]
    floors: tuple[float, ...]  # for each output, the smallest scale that an error is measured by

    @classmethod
    def of(cls, artifact: Artifact, signature: Signature, samples: Samples | None) -> Proof:
        """Let the original answer the given samples' first feeds, then feeds generated from its signature.

        A generated feed that the original itself refuses is dropped. Raises OptimizationError if nothing is left,
        or if the original does not repeat its own answers: then no rewrite of it could be proven.
        """
        run = _session(artifact.path)
        feeds, answers, refusal = [], [], ""
        offered = list(_feeds(signature, samples))
        deadly = _deadly(artifact.path, [feed for _, feed, _ in offered])
        for description, feed, given in offered:
            if died_of := deadly.get(shapes_of(feed)):
                refusal = f"ONNX Runtime dies of {description} ({died_of})"
                continue
            try:
                answer = run(feed)
            # onnxruntime's exceptions share no base below Exception.
            except Exception as error:
                if given:
                    raise OptimizationError(f"{artifact.path}: cannot answer {description}: {error}") from error
                refusal = str(error)
                continue
            feeds.append((description, feed))
            answers.append(answer)
        if not feeds:
            raise OptimizationError(
                f"{artifact.path}: answers none of the generated feeds, so no pass can be proven: {refusal}",
                hint="give samples (-d samples.npz)",
            )
        # A floor keeps the noise of an answer that cancels to nothing from being read as an error.
        floors = tuple(1e-3 * max(map(scale_of, outputs)) for outputs in zip(*answers, strict=True))
        if _difference(signature, floors, answers[0], run(feeds[0][1])):
            raise OptimizationError(
                f"{artifact.path}: gives two answers to the same feed, so no pass can be proven",
                hint="export it in eval mode, without random operators",
            )
        return cls(signature, tuple(feeds), tuple(answers), floors)

    def objection(self, model: ir.Model) -> str:
        """Why `model` is not the original any more, in a few words; empty if it is."""
        names = tuple(value.name for value in model.graph.inputs if value.name not in model.graph.initializers)
        if names != self.signature.input_names:
            return f"the inputs became {names}"
        if (outputs := tuple(value.name for value in model.graph.outputs)) != self.signature.output_names:
            return f"the outputs became {outputs}"
        try:
            died = self._deaths_of(model)
            run = _session_in_memory(model)
        except EdgeAIError as error:
            return f"the result is no valid model: {error.message}"
        # What a broken graph makes the serializer or ONNX Runtime raise is not one family.
        except Exception as error:
            return f"the result is no valid model: {type(error).__name__}: {error}"
        return died or self._compared(run)

    def objection_to(self, path: Path) -> str:
        """Why the model at `path` does not answer as the original does; empty if it does."""
        try:
            run = _session(path)
        except Exception as error:
            return f"the result is no valid model: {type(error).__name__}: {error}"
        return self._deaths(path) or self._compared(run)

    def _deaths_of(self, model: ir.Model) -> str:
        if not _may_kill([feed for _, feed in self.feeds]):
            return ""
        with tempfile.TemporaryDirectory(prefix="edgeai-") as directory:  # another process opens it
            path = Path(directory) / "candidate.onnx"
            modelfile.save(model.clone(), Artifact(path))
            return self._deaths(path)

    def _deaths(self, path: Path) -> str:
        deadly = _deadly(path, [feed for _, feed in self.feeds])
        died = [(text, deadly[shapes_of(feed)]) for text, feed in self.feeds if shapes_of(feed) in deadly]
        return f"ONNX Runtime dies of {died[0][0]} ({died[0][1]})" if died else ""

    def _compared(self, run: Run) -> str:
        for (description, feed), answer in zip(self.feeds, self.answers, strict=True):
            try:
                found = _difference(self.signature, self.floors, answer, run(feed))
            # onnxruntime's exceptions share no base below Exception.
            except Exception as error:
                return f"at {description}: {error}"
            if found:
                return f"at {description}: {found}"
        return ""


def _deadly(path: Path, feeds: Sequence[Feed]) -> Mapping[Shapes, str]:
    """Shapes with an empty axis at which the model at `path` kills its process, tried in another one."""
    if not _may_kill(feeds):
        return {}
    with load(path, ep="cpu") as session:
        return deadly_shapes(session, feeds)


def _may_kill(feeds: Sequence[Feed]) -> bool:
    return not all(array.size for feed in feeds for array in feed.values())


def _feeds(signature: Signature, samples: Samples | None) -> list[tuple[str, Feed, bool]]:
    given: list[tuple[str, Feed, bool]] = []
    if samples is not None:
        batch = sample_batch(signature)
        if samples.rows and len(samples) > batch:
            samples = samples.take(slice(len(samples) // batch * batch))  # a fixed batch takes no smaller last one
        for index, feed in enumerate(itertools.islice(samples.feeds(batch), _MAX_SAMPLES)):
            signature.check(feed)
            given.append((f"sample {index}", feed, True))
    probes = probe_feeds(signature, seed=_SEED, count=_MAX_PROBES)
    return given + [(probe.description, probe.feed, False) for probe in probes]


def _session(path: Path) -> Run:
    return _runs(onnxruntime().InferenceSession(str(path), _options(), providers=["CPUExecutionProvider"]))


def _session_in_memory(model: ir.Model) -> Run:
    """Opened as it stands too: what ONNX Runtime's optimizers would hide must not come up in another runtime."""
    ort = onnxruntime()
    graph, weights = modelfile.in_memory(model)
    values = [ort.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
    plain, usual = modelfile.plain_options(), _options()
    for options in (plain, usual):
        options.add_external_initializers(list(weights), values)
    ort.InferenceSession(graph, plain, providers=["CPUExecutionProvider"])
    return _runs(ort.InferenceSession(graph, usual, providers=["CPUExecutionProvider"]), values)


def _options() -> Any:
    options = onnxruntime().SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = machine().cores
    return options


def _runs(session: Any, weights: Sequence[Any] = ()) -> Run:
    """`weights` live as long as the session that reads them where they are."""

    def run(feed: Feed, _weights: Sequence[Any] = weights) -> list[Array]:
        return [np.asarray(output) for output in session.run(None, dict(feed))]

    return run


def _difference(
    signature: Signature, floors: Sequence[float], expected: Sequence[Array], actual: Sequence[Array]
) -> str:
    """What is different about the answers, in a few words; empty if they are equal within the gate's tolerance."""
    for index, (name, want, got) in enumerate(zip(signature.output_names, expected, actual, strict=True)):
        if want.shape != got.shape or want.dtype != got.dtype:
            return f"{name} became {got.dtype}{got.shape}, was {want.dtype}{want.shape}"
        if want.dtype.name not in _FACTORS:
            if not np.array_equal(want, got):
                return f"{name} changed"
            continue
        tolerance = EXACT.verified * _FACTORS[want.dtype.name]
        found = difference(want, got, floor=floors[index])
        if found.nonfinite:
            return f"{name}{list(found.index)} became {found.candidate:.6g}, was {found.reference:.6g}"
        if found.error > tolerance:
            return f"{name} is off by {found.error:.2g} of its scale, at most {tolerance:.0e} is rounding"
    return ""
