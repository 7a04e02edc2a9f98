"""What is compared, and the parent's end of the process that each subject runs in."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from edgeai import errors
from edgeai.bench.arrivals import Surrender
from edgeai.bench.loop import Block, WarmUp
from edgeai.bench.workload import Workload
from edgeai.errors import BenchmarkError, EdgeAIError, UsageError

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Subject:
    """An engine that another process can build: `factory` is "module:function", called with `arguments`.

    `arguments` must be what JSON can carry. `preload`, "module:function" too, is called without arguments in the
    import phase: for a factory that imports its library only when it is called ("edgeai.ort:onnxruntime").
    `size_bytes` is the model's, if known; `files` are read once before it is built, to time the disk. `batch` and
    `samples_path` replace what `measure` was given, for a sweep; subjects of one `point` are compared with each other.
    """

    name: str
    factory: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    size_bytes: int | None = None
    preload: str = ""
    files: tuple[str, ...] = ()
    batch: int | None = None
    samples_path: str | None = None
    point: str = ""

    def __post_init__(self) -> None:
        for label, value in (("factory", self.factory), ("preload", self.preload)):
            if not _FACTORY.fullmatch(value) and (value or label == "factory"):
                raise UsageError(f"subject {self.name!r}: {label} must be 'module:function', got {value!r}")
        try:
            carried = json.loads(json.dumps(dict(self.arguments), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise UsageError(f"subject {self.name!r}: arguments cannot be sent as JSON ({error})") from error
        object.__setattr__(self, "arguments", carried)


@dataclass(frozen=True)
class Phases:
    """The way to the first answer. In this process, where nothing was built, only the first inference is known.

    `read_ns`: the model's files from the disk, their pages dropped from the cache first where the system allows it.
    `create_ns` is the first engine of a fresh process, `create_warm_ns` the second one, made after the measurement.
    """

    import_ns: int | None
    create_ns: int | None
    first_inference_ns: int
    read_ns: int | None = None
    create_warm_ns: int | None = None


@dataclass(frozen=True)
class Ran:
    """Where the model really ran: `providers` in order, `placement` counts the graph's nodes on each of them.

    `passed_over` says why a provider that was preferred did not run. Empty for an engine that cannot tell.
    """

    providers: tuple[str, ...] = ()
    placement: Mapping[str, int] = field(default_factory=dict)
    passed_over: tuple[str, ...] = ()


class WorkerProcess:
    """A lane in a process of its own. Waiting for it blocks on a pipe: the parent uses no CPU meanwhile.

    Use as a context manager: the process is gone afterwards, whatever happened. Every method raises BenchmarkError,
    with the subject's name and the last line of stderr, if the process has died, and what it raised itself if that
    was an EdgeAIError.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.baseline_rss_bytes: int | None = None
        self.peak_rss_bytes: int | None = None
        self.ran = Ran()
        self.energy_source, self.energy_reason = "", ""
        # A file, not a pipe: nobody reads while the worker runs, and a full pipe would stop it.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed in __exit__)
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "edgeai.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
            process_group=0,  # Ctrl-C is the parent's to handle
        )

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        self._close_stdin()
        self._stderr.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def build(self, samples_path: str | Path, workload: Workload) -> Phases:
        """Import, create, and answer once."""
        reply = self._ask(
            "build",
            factory=self.subject.factory,
            arguments=self.subject.arguments,
            preload=self.subject.preload,
            files=self.subject.files,
            samples=os.path.abspath(self.subject.samples_path or samples_path),
            workload=dataclasses.asdict(dataclasses.replace(workload, batch=self.subject.batch or workload.batch)),
        )
        self.baseline_rss_bytes = reply["baseline_rss_bytes"]
        self.energy_source, self.energy_reason = reply["energy"]
        ran = reply["ran"]
        self.ran = Ran(tuple(ran["providers"]), ran["placement"], tuple(ran["passed_over"]))
        return Phases(**reply["phases"])

    def warm_up(self) -> WarmUp:
        return WarmUp(**self._ask("warm_up"))

    def block(self, runs: int, *, budget_ns: int, discard: int = 0) -> Block:
        reply = self._ask("block", runs=runs, budget_ns=budget_ns, discard=discard)
        return Block(**{**reply, "samples_ns": tuple(reply["samples_ns"])})

    def pace(self, rate: float, *, surrender: Surrender | None = None) -> None:
        """How many queries arrive in a second from now on: see `Loop.pace`."""
        self._ask("pace", rate=rate, surrender=surrender and dataclasses.asdict(surrender))

    def answer(self, path: str | Path, *, count: int) -> None:
        """Write the outputs for the first `count` feeds to `path`, as samples."""
        self._ask("answer", path=os.path.abspath(path), count=count)

    def finish(self, *, again: bool = False) -> int | None:
        """Close the engine in an orderly way; with `again`, make a second one: nanoseconds that this takes."""
        peak = self.peak_rss_bytes
        create_warm_ns: int | None = self._ask("finish", again=again)["create_warm_ns"]
        self.peak_rss_bytes = peak  # of the measured engine, not of both
        return create_warm_ns

    def _ask(self, do: str, **arguments: object) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise self._died()
        answer = json.loads(line)
        if "error" in answer:
            kind, message, hint = answer["error"]
            error_type = getattr(errors, kind, BenchmarkError)
            error: EdgeAIError = error_type(f"subject {self.subject.name!r}: {message}", hint=hint)
            raise error
        self.peak_rss_bytes = answer["peak_rss_bytes"]
        reply: dict[str, Any] = answer["reply"]
        return reply

    def _died(self) -> BenchmarkError:
        code = self._process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - 65_536))
        lines = self._stderr.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing on stderr")
        hint = "the kernel does this when memory runs out" if code == -signal.SIGKILL else ""
        return BenchmarkError(f"subject {self.subject.name!r}: its process {how}: {last}", hint=hint)

    def _close_stdin(self) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:  # what was still unsent has no reader any more
            return
