"""A model that answers: an ONNX Runtime session that runs where it was asked to, and explains what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

import numpy as np

from edgeai.artifact import Step
from edgeai.bundle import Bundle
from edgeai.errors import (
    EdgeAIError,
    InputError,
    ModelFormatError,
    ProviderError,
    ResourceLimitError,
    UsageError,
)
from edgeai.external import refuse_outside
from edgeai.ort import onnxruntime
from edgeai.runtime.declared import open_artifact
from edgeai.runtime.feeds import FeedCheck
from edgeai.runtime.options import nearest
from edgeai.runtime.placement import Placement
from edgeai.runtime.providers import (
    PROVIDERS,
    ProviderOptions,
    ort_options,
    parse_options,
    reason,
    refuse_unavailable,
    resolve,
    short_name,
)
from edgeai.runtime.settings import SessionSettings
from edgeai.runtime.tasks import Task, TextGeneration, open_task
from edgeai.samples import Samples
from edgeai.spec import Array, Feed, Signature

Options = Mapping[str, ProviderOptions | Mapping[str, object]]


@final
class Session:
    """Implements `Engine`. Use `edgeai.load`, which also opens bundles. Runs may overlap in several threads.

    `ep` is one provider or several in order of preference: the first must run, the others are its fallback, as are
    those in `fallback`. Whatever was passed over stands in `skipped`, one sentence each. Nodes that a provider does
    not implement run on the CPU: see `placement`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        ep: str | Sequence[str] = "auto",
        fallback: Sequence[str] = (),
        settings: SessionSettings | None = None,
        options: Options | None = None,
        bundle: Bundle | None = None,
    ) -> None:
        """Open `path`, or the model of `bundle`, whose files were checked already.

        Raises ModelFormatError or UnsafePathError (the file), ProviderError (what was asked for does not run here, or
        would run no node of this model), UsageError (an unknown provider or option).
        """
        self.path = Path(path)
        self.settings = settings or SessionSettings()
        self.bundle = bundle
        wanted = _wanted(ep, fallback)
        values = _provider_options(options or {}, wanted)
        if bundle is None:
            _refuse_bad_file(self.path)
        session, self.skipped = _create(self.path, wanted, values, self.settings)
        artifact = open_artifact(session, self.path)
        assert artifact.signature is not None
        self.signature: Signature = artifact.signature
        self.lineage: tuple[Step, ...] = artifact.lineage
        self.placement = Placement.of(session)
        self.providers = tuple(map(short_name, session.get_providers()))
        self._check = FeedCheck(self.signature)
        self._outputs = list(self.signature.output_names)
        self._session: Any = session
        self._run: Callable[[list[str], Feed], list[Array]] = session.run
        self._task: Task | None = None

    def run(self, feed: Feed) -> dict[str, Array]:
        """Answer one complete feed of numpy arrays.

        Arrays of another byte order and views of any strides are converted exactly; nothing else is. Raises InputError
        if the feed does not fit the signature or the model refuses it, UsageError after `close`.
        """
        if type(feed) is not dict or not self._check.fits(feed):
            feed = self._check.exact(feed)
        try:
            return dict(zip(self._outputs, self._run(self._outputs, feed), strict=True))
        # onnxruntime's exceptions share no base below Exception.
        except EdgeAIError:
            raise
        except Exception as error:
            raise _run_error(error, self.path) from error

    def run_samples(self, samples: Samples) -> Samples:
        """The outputs for all samples, one at a time: rows for rows where each output is one row, else feeds."""
        first = self.signature.inputs[0].shape[:1]
        batch = first[0] if first and isinstance(first[0], int) else 1
        answers = [self.run(feed) for feed in samples.feeds(batch)]
        if samples.rows and all(array.shape[:1] == (batch,) for answer in answers for array in answer.values()):
            return Samples.from_rows({name: np.concatenate([a[name] for a in answers]) for name in self._outputs})
        return Samples.from_feeds(answers)

    @property
    def task(self) -> Task:
        """What the bundle is for, as a function of one text or image. Raises UsageError if it says nothing."""
        if self._task is None:
            if self.bundle is None or not self.bundle.task:
                raise UsageError(f"{self.path}: no task is described", hint="use run() with arrays, or pack a task")
            self._task = open_task(self, self.bundle)
        return self._task

    def generate(
        self,
        prompt: str,
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> Iterator[str]:
        """Continue `prompt`, in pieces of whole characters; see `edgeai.runtime.generation.generate`.

        Raises UsageError at once if the bundle is not for text generation or an option is out of range.
        """
        task = self.task
        if not isinstance(task, TextGeneration):
            raise UsageError(f"{self.path}: the bundle is for {task.name}, not for text-generation")
        return task.stream(
            prompt, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
        )

    def close(self) -> None:
        """Give back the model's memory, and what was unpacked of its bundle. May be called twice."""
        self._session = None
        self._run = _refuse_closed
        if self.bundle is not None:
            self.bundle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Session({str(self.path)!r}, {self.placement.summary})"


def _refuse_closed(*_: object) -> list[Array]:
    raise UsageError("the session is closed", hint="load the model again")


def _wanted(ep: str | Sequence[str], fallback: Sequence[str]) -> tuple[str, ...]:
    names = resolve(ep)
    return (*names, *(name for name in resolve(fallback) if name not in names)) if fallback else names


def _provider_options(options: Options, wanted: tuple[str, ...]) -> dict[str, ProviderOptions]:
    values = {short_name(name): value for name, value in options.items()}
    for name in values:
        if name not in PROVIDERS:
            raise UsageError(f"options for an unknown execution provider {name!r}", hint=nearest(name, PROVIDERS))
        if name not in wanted:
            raise UsageError(
                f"options for {name}, but the session runs on {', '.join(wanted)}", hint=f"add ep={name!r}"
            )
    return {name: parse_options(name, values.get(name)) for name in wanted}


def _refuse_bad_file(path: Path) -> None:
    if not path.is_file():
        raise ModelFormatError(f"{path}: {'is a directory, not a model' if path.is_dir() else 'no such file'}")
    refuse_outside(path)


def _create(
    path: Path, wanted: tuple[str, ...], options: Mapping[str, ProviderOptions], settings: SessionSettings
) -> tuple[Any, tuple[str, ...]]:
    """A session on the first of `wanted` that runs this model, and why the ones before it do not."""
    refused: list[ProviderError] = []
    for index, name in enumerate(wanted):
        try:
            refuse_unavailable(name)
            rest = [other for other in wanted[index + 1 :] if reason(other) is None]
            return _create_on([name, *rest], path, options, settings), tuple(error.message for error in refused)
        except ProviderError as error:
            refused.append(error)
    raise refused[0]


def _create_on(names: list[str], path: Path, options: Mapping[str, ProviderOptions], settings: SessionSettings) -> Any:
    ort = onnxruntime()
    ort.set_default_logger_severity(4)  # a provider that fails to load logs outside the session
    providers = [(PROVIDERS[name].ort_name, ort_options(options[name])) for name in names]
    if "cpu" not in names:
        providers.append((PROVIDERS["cpu"].ort_name, {}))
    try:
        session = ort.InferenceSession(
            str(path),
            settings.apply(ort),
            providers=providers,
            disabled_optimizers=list(settings.disabled_optimizers) or None,
            enable_fallback=0,  # its own fallback prints to stdout and goes on without the provider
        )
        session.disable_fallback()
    # onnxruntime's exceptions share no base below Exception, and bad bytes also surface as UnicodeDecodeError.
    except Exception as error:
        if names[0] != "cpu" and type(error).__name__ in ("EPFail", "RuntimeError", "Fail"):
            raise ProviderError(
                f"execution provider {names[0]} does not start: {_first_line(error)}", hint=PROVIDERS[names[0]].remedy
            ) from error
        raise ModelFormatError(f"{path}: ONNX Runtime cannot open it: {_first_line(error)}") from error
    _refuse_unused(session, names[0], path)
    return session


def _refuse_unused(session: Any, name: str, path: Path) -> None:
    if short_name(session.get_providers()[0]) != name:
        raise ProviderError(
            f"execution provider {name} did not start: its libraries load, but no device answers",
            hint="check the device and its driver (nvidia-smi)",
        )
    placement = Placement.of(session)
    if placement.nodes and not placement.count(name):
        raise ProviderError(
            f"{path}: execution provider {name} implements no node of this model ({placement.summary})",
            hint="choose another provider, or name one in fallback",
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _run_error(error: Exception, path: Path) -> EdgeAIError:
    text = _first_line(error)
    if type(error).__name__ == "EPFail":
        return ProviderError(f"{path}: the execution provider failed: {text}")
    if isinstance(error, MemoryError) or "Failed to allocate memory" in text or "bad_alloc" in text:
        return ResourceLimitError(f"{path}: out of memory: {text}", hint="use a smaller batch or shorter inputs")
    return InputError(f"{path}: the model cannot compute this input: {text}")
