"""The process that one subject runs in: `python -m edgeai.bench.worker`, driven by `edgeai.bench.subject`.

One JSON object a line. stdin: `{"do": "build" | "warm_up" | "pace" | "block" | "answer" | "finish",
...arguments}`; stdout, for each:
`{"reply": {...}, "peak_rss_bytes": n}` or `{"error": [class, message, hint]}` for an EdgeAIError.
Any other exception ends the process with its traceback on stderr. So does the end of stdin, at once and silently,
whatever is being run: a worker never outlives its parent.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from edgeai.bench.arrivals import Surrender
from edgeai.bench.energy import find_meter
from edgeai.bench.loop import Loop
from edgeai.bench.memory import peak_rss_bytes, rss_bytes
from edgeai.bench.workload import Workload
from edgeai.errors import BenchmarkError, EdgeAIError
from edgeai.runtime.engine import Engine
from edgeai.samples import Samples


def main() -> None:
    """Obey commands until stdin ends."""
    commands, replies = _claim_streams()

    def send(reply: Mapping[str, Any]) -> None:
        replies.write(json.dumps(reply) + "\n")
        replies.flush()

    serve(_until_eof(commands), send)


def serve(commands: Iterable[str], send: Callable[[Mapping[str, Any]], None]) -> None:
    """Answer each line of `commands` with one object."""
    worker = _Worker()
    actions: dict[str, Callable[..., dict[str, Any]]] = {
        "build": worker.build,
        "warm_up": worker.warm_up,
        "pace": worker.pace,
        "block": worker.block,
        "answer": worker.answer,
        "finish": worker.finish,
    }
    for line in commands:
        command = json.loads(line)
        try:
            reply = actions[command.pop("do")](**command)
        except EdgeAIError as error:
            send({"error": [type(error).__name__, error.message, error.hint]})
        else:
            send({"reply": reply, "peak_rss_bytes": peak_rss_bytes()})


class _Worker:
    def build(
        self,
        *,
        factory: str,
        arguments: Mapping[str, Any],
        preload: str,
        files: Sequence[str],
        samples: str,
        workload: Mapping[str, Any],
    ) -> dict[str, Any]:
        plan = Workload(**workload)
        self._feeds = plan.feeds(Samples.load(samples))
        read_ns = _read(files) if files else None
        baseline = rss_bytes()  # the inputs are the harness's, what comes now is the subject's
        start = time.perf_counter_ns()
        if preload:
            _named(preload)()
        make = _named(factory)
        imported = time.perf_counter_ns()
        engine = make(**arguments)
        created = time.perf_counter_ns()
        if not isinstance(engine, Engine):
            raise BenchmarkError(f"{factory} returned {type(engine).__name__}, which is not an engine")
        self._make = functools.partial(make, **arguments)
        self._engine = engine
        ran = _ran(engine)
        meter, reason = find_meter(ran["providers"])
        self._loop = Loop(engine, self._feeds, workload=plan, meter=meter)
        return {
            "phases": {
                "import_ns": imported - start,
                "create_ns": created - imported,
                "first_inference_ns": self._loop.first(),
                "read_ns": read_ns,
            },
            "baseline_rss_bytes": baseline,
            "ran": ran,
            "energy": [meter.source if meter else "", reason],
        }

    def warm_up(self) -> dict[str, Any]:
        return dataclasses.asdict(self._loop.warm_up())

    def pace(self, *, rate: float, surrender: Mapping[str, int] | None) -> dict[str, Any]:
        self._loop.pace(rate, surrender=Surrender(**surrender) if surrender else None)
        return {}

    def block(self, *, runs: int, budget_ns: int, discard: int) -> dict[str, Any]:
        return dataclasses.asdict(self._loop.block(runs, budget_ns=budget_ns, discard=discard))

    def answer(self, *, path: str, count: int) -> dict[str, Any]:
        Samples.from_feeds([self._engine.run(feed) for feed in self._feeds[:count]]).save(path)
        return {}

    def finish(self, *, again: bool) -> dict[str, Any]:
        self._engine.close()
        if not again:
            return {"create_warm_ns": None}
        begin = time.perf_counter_ns()
        engine = self._make()
        create_warm_ns = time.perf_counter_ns() - begin
        engine.close()
        return {"create_warm_ns": create_warm_ns}


def _named(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return function


def _read(files: Sequence[str]) -> int:
    """Nanoseconds to read `files` from the disk, or from the system's cache where it keeps them all the same."""
    buffer = bytearray(1 << 20)
    elapsed = 0
    for name in files:
        with open(name, "rb", buffering=0) as stream:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            begin = time.perf_counter_ns()
            while stream.readinto(buffer):
                pass
            elapsed += time.perf_counter_ns() - begin
    return elapsed


def _ran(engine: Engine) -> dict[str, Any]:
    """What an ONNX Runtime session tells about itself; other engines do not."""
    nodes = getattr(getattr(engine, "placement", None), "nodes", ())
    return {
        "providers": list(getattr(engine, "providers", ())),
        "placement": dict(Counter(node.provider for node in nodes)),
        "passed_over": list(getattr(engine, "skipped", ())),
    }


def _claim_streams() -> tuple[TextIO, TextIO]:
    """The parent's pipes, moved out of reach of libraries that print or read."""
    commands, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return commands, replies


def _until_eof(commands: TextIO) -> Iterator[str]:
    """Lines as they come. A thread waits for them, so that the end is noticed in the middle of a long run too."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in commands:
            lines.put(line)
        # Not sys.exit: it would end this thread only, and a hung engine would keep the process.
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield lines.get()


if __name__ == "__main__":
    main()
