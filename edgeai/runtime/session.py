"""A model that answers: an ONNX Runtime session that runs where it was asked to, and explains what it refuses."""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

import numpy as np

from edgeai.artifact import Step
from edgeai.bundle import Bundle, open_bundle
from edgeai.errors import EdgeAIError, ModelFormatError, UsageError
from edgeai.runtime.binding import Binding
from edgeai.runtime.deadlines import Stop, due, run_aside, run_until
from edgeai.runtime.declared import open_artifact
from edgeai.runtime.failures import explained
from edgeai.runtime.feeds import FeedCheck
from edgeai.runtime.finiteness import judge_inputs, judge_outputs
from edgeai.runtime.fitting import raw_run
from edgeai.runtime.generation import never
from edgeai.runtime.opening import Options, create, provider_options, refuse_bad_file, wanted_providers
from edgeai.runtime.placement import Placement
from edgeai.runtime.precise_sums import with_precise_sums
from edgeai.runtime.profiling import Profile, profile
from edgeai.runtime.proven import differences
from edgeai.runtime.providers import short_name
from edgeai.runtime.settings import SessionSettings
from edgeai.runtime.shrinkage import Shrinkage, run_options, shrinking
from edgeai.runtime.speculation import PromptLookup
from edgeai.runtime.tasks import Task, open_task, text_generation
from edgeai.runtime.warming import warm_up_feeds
from edgeai.samples import Samples
from edgeai.spec import Array, Feed, Signature

_OPEN: weakref.WeakSet[Session] = weakref.WeakSet()
_INHERITED: list[Any] = []  # sessions of a parent process: their threads are not here, so they are not destroyed here


@final
class Session:
    """Implements `Engine`. Use `edgeai.load`, which also opens bundles. Runs may overlap in several threads.

    `ep` is one provider or several in order of preference: the first must run, the others are its fallback, as are
    those in `fallback`. Whatever was passed over stands in `skipped`, one sentence each. Nodes that a provider does
    not implement run on the CPU: see `placement`. All that a person should know of where it runs stands in `notes`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        ep: str | Sequence[str] = "auto",
        fallback: Sequence[str] = (),
        settings: SessionSettings | None = None,
        options: Options | None = None,
        min_on_ep: float = 0.0,
        trust_compiled: bool = False,
        bundle: Bundle | None = None,
    ) -> None:
        """Open `path`, or the model of `bundle`, whose files were checked already.

        Raises ModelFormatError or UnsafePathError (the file), ProviderError (what was asked for does not run here, or
        would run no node of this model, or less than the part `min_on_ep` of its nodes, 0..1), UsageError (an unknown
        provider or option), UntrustedCodeError (compiled parts that this user has not compiled here, unless
        `trust_compiled`).
        """
        self.path = Path(path)
        self.settings = settings or SessionSettings()
        self.bundle = bundle
        wanted = wanted_providers(ep, fallback)
        values = provider_options(options or {}, wanted)
        self._create = functools.partial(
            create, wanted=wanted, options=values, min_on_ep=min_on_ep, trust_compiled=trust_compiled
        )
        self._recipe: dict[str, Any] = dict(
            ep=ep, fallback=fallback, options=options, min_on_ep=min_on_ep, trust_compiled=trust_compiled
        )
        self._open()
        self._shrinkage = Shrinkage(self.settings)
        # One for all runs: ONNX Runtime takes longer to make its own than to read this one.
        self._plain, self._shrinking = run_options(), shrinking()
        self._judges = self.settings.non_finite != "pass"
        self._task: Task | None = None
        _OPEN.add(self)

    def _open(self, *, expected: Signature | None = None) -> None:
        if self.bundle is None:
            refuse_bad_file(self.path)
        self.settings = with_precise_sums(self.path, self.settings)
        session, self.skipped = self._create(self.path, settings=self.settings)
        artifact = open_artifact(session, self.path)
        assert artifact.signature is not None
        if expected not in (None, artifact.signature):
            raise ModelFormatError(f"{self.path}: it was replaced by another model", hint="load it again")
        self.signature: Signature = artifact.signature
        self.lineage: tuple[Step, ...] = artifact.lineage
        self.placement = Placement.of(session)
        self.providers = tuple(map(short_name, session.get_providers()))
        self._check = FeedCheck(self.signature)
        self._outputs = list(self.signature.output_names)
        self._bindings: weakref.WeakSet[Binding] = weakref.WeakSet()
        self._session: Any = session
        # What InferenceSession.run does besides was done here already, faster.
        self._call: Callable[[list[str], Feed, Any], list[Array]] = raw_run(session)

    def run(self, feed: Feed, *, timeout: float | None = None) -> dict[str, Array]:
        """Answer one complete feed of numpy arrays, within `timeout` seconds if there is one.

        Arrays of another byte order and views of any strides are converted exactly; nothing else is. Raises InputError
        if the feed does not fit the signature or the model refuses it, DeadlineError when time is up (a run ends before
        its next node), ResourceLimitError when memory is, NonFiniteError if the settings ask for it, UsageError after
        `close`.
        """
        if timeout is not None:
            run = functools.partial(self._answer_anything, feed)
            return run_until(due(timeout), Stop(run_options()), run, what=str(self.path))
        size = self._check.size(feed) if type(feed) is dict else -1
        if size < 0:
            return self._answer_anything(feed, run_options())
        return self._answer(feed, self._shrinking if self._shrinkage.due(size) else self._plain)

    async def run_async(self, feed: Feed, *, timeout: float | None = None) -> dict[str, Array]:
        """Like `run`, in a thread of the event loop's executor; the time waiting for one counts too.

        Cancelling the task ends the run. The arrays of the feed must stay as they are until then.
        """
        run = functools.partial(self._answer_anything, feed)
        return await run_aside(Stop(run_options()), run, timeout=timeout, what=str(self.path))

    def _answer_anything(self, feed: Feed, options: Any) -> dict[str, Array]:
        feed = self._check.exact(feed)
        if self._shrinkage.due(sum(array.nbytes for array in feed.values())):
            options = shrinking(options)
        return self._answer(feed, options)

    def _answer(self, feed: Feed, options: Any) -> dict[str, Array]:
        if self._judges:
            judge_inputs(feed, self.settings.non_finite)
        try:
            answer = dict(zip(self._outputs, self._call(self._outputs, feed, options), strict=False))
        # onnxruntime's exceptions share no base below Exception.
        except EdgeAIError:
            raise
        except Exception as error:
            raise explained(error, self.path) from error
        if self._judges:
            judge_outputs(answer, self.settings.non_finite)
        return answer

    def bind(
        self, inputs: Mapping[str, Any], outputs: Mapping[str, Any] | None = None, *, in_place: Collection[str] = ()
    ) -> Binding:
        """Buffers for `run_bound`: numpy arrays, or DLPack tensors on any device that the session's provider reads.

        Outputs that are not given are allocated in host memory, with the sizes that one run on `inputs` gives them.
        `in_place` names outputs that may share memory with inputs, for operators that update a cache. Raises InputError
        for a buffer that does not fit the signature or whose memory cannot be shared as it is.
        """
        self._ready()
        binding = Binding(
            self._session, self.path, signature=self.signature, inputs=inputs, outputs=outputs or {}, in_place=in_place
        )
        self._bindings.add(binding)
        return binding

    def run_bound(self, binding: Binding, *, timeout: float | None = None) -> Mapping[str, Any]:
        """Read the inputs of `binding` and write its outputs, which are also returned: the same buffers every time.

        What the buffers hold is not looked at: the settings' `non_finite` and `shrink` do not apply. Raises what `run`
        raises, and UsageError for a binding of another session; after an error the outputs hold anything.
        """
        if binding.session is not self._session or self._session is None:
            self._ready()
            raise UsageError("the binding is another session's, or older than this process", hint="bind again")
        if timeout is None:
            binding.run()
        else:
            run_until(due(timeout), Stop(run_options()), binding.run, what=str(self.path))
        return binding.outputs

    def warm_up(self, feeds: Iterable[Feed] | None = None) -> int:
        """Run each feed once, so that nobody waits for what only a first run does; returns how many there were.

        Without feeds: generated ones, at a small usual shape and at both ends of the declared ranges. Raises what `run`
        raises, and InputError if feeds cannot be generated.
        """
        count = 0
        for feed in warm_up_feeds(self.signature) if feeds is None else feeds:
            self.run(feed)
            count += 1
        return count

    def run_samples(self, samples: Samples) -> Samples:
        """The outputs for all samples, one at a time: rows for rows where each output is one row, else feeds."""
        first = self.signature.inputs[0].shape[:1]
        batch = first[0] if first and isinstance(first[0], int) else 1
        answers = [self.run(feed) for feed in samples.feeds(batch)]
        if samples.rows and all(array.shape[:1] == (batch,) for answer in answers for array in answer.values()):
            return Samples.from_rows({name: np.concatenate([a[name] for a in answers]) for name in self._outputs})
        return Samples.from_feeds(answers)

    def profile(self, feed: Feed, *, runs: int = 1) -> Profile:
        """Which kernels ran where and how long, after graph optimization: `runs` runs in a second, profiled session.

        Raises what `run` raises for a feed that does not fit, and what opening the model raises.
        """
        self._ready()
        return profile(self._create, self.path, self.settings, self._check.exact(feed), runs=runs)

    @property
    def notes(self) -> tuple[str, ...]:
        """`skipped`, and how this machine differs from the one that the bundle was proven on; a sentence each."""
        # Not at loading: what this machine is takes longer to read than a small model to open.
        proven = differences(self.bundle.contents.proven_on, self.providers[0]) if self.bundle else ()
        return (*self.skipped, *proven)

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
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
        lookup: PromptLookup | None = None,
        cancelled: Callable[[], bool] = never,
    ) -> Iterator[str]:
        """Continue `prompt`, in pieces of whole characters; see `edgeai.runtime.generation.generate`.

        Raises UsageError at once if the bundle is not for text generation or an option is out of range.
        """
        return text_generation(self.task).stream(
            prompt,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            stop=stop,
            lookup=lookup,
            cancelled=cancelled,
        )

    def close(self) -> None:
        """Give back the model's memory, and what was unpacked of its bundle. May be called twice, and during runs."""
        self._session = None
        self._call = _closed
        for binding in tuple(self._bindings):
            binding.release()
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

    def __reduce__(self) -> tuple[Any, ...]:
        """As a recipe: whoever unpickles it loads the same file again, on the same provider, with the same settings."""
        from edgeai.runtime.loading import load  # which imports this module

        self._ready()
        path = (self.path if self.bundle is None else self.bundle.path).absolute()
        return functools.partial(load, path, settings=self.settings, **self._recipe), ()

    def _ready(self) -> None:
        """Open again what came with a fork. Raises UsageError after `close`."""
        if self._call == self._call_reopened:
            self._reopen()
        if self._session is None:
            _closed()

    def _call_reopened(self, outputs: list[str], feed: Feed, options: Any) -> list[Array]:
        """The first run of a session that came with a fork."""
        self._reopen()
        return self._call(outputs, feed, options)

    def _reopen(self) -> None:
        with self._reopening:
            if self._call != self._call_reopened:
                return
            if self.bundle is not None:  # the parent may remove what it unpacked
                self.bundle = open_bundle(self.bundle.path)
                self.path = self.bundle.model_path
            self._open(expected=self.signature)

    def _inherited(self) -> None:
        """For a child process that was forked: open the file again at the next run, since no thread came along."""
        if self._session is not None:
            _INHERITED.append(self._session)
            self._session, self._call, self._reopening = None, self._call_reopened, threading.Lock()


def _closed(*_: object) -> list[Array]:
    raise UsageError("the session is closed", hint="load the model again")


def _after_fork() -> None:
    for session in tuple(_OPEN):
        session._inherited()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
