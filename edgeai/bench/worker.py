"""The process that one subject runs in: `python -m edgeai.bench.worker`, driven by `edgeai.bench.subject`.

One JSON object a line. stdin: `{"do": "build" | "warm_up" | "block" | "finish", ...arguments}`; stdout, for each:
`{"reply": {...}, "peak_rss_bytes": n}` or `{"error": [class, message, hint]}` for an EdgeAIError.
Any other exception ends the process with its traceback on stderr. So does the end of stdin, at once and silently,
whatever is being run: a worker never outlives its parent.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TextIO

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
        "block": worker.block,
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
        self, *, factory: str, arguments: Mapping[str, Any], preload: str, samples: str, workload: Mapping[str, Any]
    ) -> dict[str, Any]:
        plan = Workload(**workload)
        feeds = plan.feeds(Samples.load(samples))
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
        self._engine = engine
        self._loop = Loop(engine, feeds, workload=plan)
        return {
            "import_ns": imported - start,
            "create_ns": created - imported,
            "first_inference_ns": self._loop.first(),
            "baseline_rss_bytes": baseline,
        }

    def warm_up(self) -> dict[str, Any]:
        return dataclasses.asdict(self._loop.warm_up())

    def block(self, *, runs: int, budget_ns: int, discard: int) -> dict[str, Any]:
        block = self._loop.block(runs, budget_ns=budget_ns, discard=discard)
        return {"samples_ns": block.samples_ns, "cpu_ns": block.cpu_ns}

    def finish(self) -> dict[str, Any]:
        self._engine.close()
        return {}


def _named(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return function


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
