"""A peer's end of the pipe. Needs numpy and nothing else; `peers/process.py` is the other end.

One JSON object a line. stdin: `{"do": COMMAND, ...arguments}`. For each, through a pipe of its own, since tools print
to stdout while they are imported: `{"reply": {...}}`, or `{"error": "Type: message"}` for whatever the tool raised,
after which the process goes on. Commands:

- `versions`: of Python and of the packages that the driver named
- `quantize`: a file into another, by one of the driver's recipes
- `load`: a file in one of the driver's forms, and the feeds that it will be given
- `run`: every feed once; the first answer to each goes into an `.npz`, as `answer/0`, `answer/1`, ...
- `time`: so many runs, of which the nanoseconds come back
- `quit`: so does the end of stdin

Between commands the process waits on the pipe; a tool whose threads spin on after a run is given time to stop by the
parent, which pauses before each block.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

LABELS = "labels"
ANSWER = "answer"

Feed = dict[str, np.ndarray]
Feeds = list[Feed]
Run = Callable[[Feed], np.ndarray]
"""One feed to the first of the answers; all of them have to be worked out."""
Recipe = Callable[..., None]
"""(source, out, calibration feeds, **options) -> None: writes `out`."""
Form = Callable[..., Run]
"""(source, **options) -> what answers one feed."""


def serve(*, recipes: Mapping[str, Recipe], forms: Mapping[str, Form], packages: Sequence[str]) -> None:
    """Obey commands until `quit`."""
    commands, replies = _claim_streams()
    peer = _Peer(recipes, forms, packages)
    for line in commands:
        command = json.loads(line)
        action = command.pop("do")
        if action == "quit":
            break
        try:
            answer = {"reply": getattr(peer, action)(**command)}
        except Exception as error:  # every failure of a tool is a result here
            answer = {"error": _told(error)}
        replies.write(json.dumps(answer) + "\n")
        replies.flush()
    os._exit(0)  # what a tool does at its end has cost others a hang


def read_feeds(path: str | Path, limit: int | None = None) -> Feeds:
    """Feeds of an `.npz`: rows `NAME` (N, ...) one at a time, or whole feeds `NAME/0`, `NAME/1`, ..."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files if name != LABELS}
    if any("/" in name for name in arrays):
        names = sorted({name.rpartition("/")[0] for name in arrays})
        count = len(arrays) // len(names)
        return [{name: arrays[f"{name}/{i}"] for name in names} for i in range(count)][:limit]
    count = len(next(iter(arrays.values())))
    return [{name: array[i : i + 1] for name, array in arrays.items()} for i in range(count)][:limit]


class _Peer:
    def __init__(self, recipes: Mapping[str, Recipe], forms: Mapping[str, Form], packages: Sequence[str]) -> None:
        self._recipes, self._forms, self._packages = recipes, forms, packages

    def versions(self) -> dict[str, str]:
        return {"python": platform.python_version()} | {
            name: importlib.metadata.version(name) for name in self._packages
        }

    def quantize(
        self, recipe: str, source: str, out: str, calibration: str | None, options: Mapping[str, Any]
    ) -> dict[str, float]:
        feeds = read_feeds(calibration) if calibration is not None else []
        begin = time.perf_counter()
        self._recipes[recipe](Path(source), Path(out), feeds, **options)
        return {"seconds": time.perf_counter() - begin}

    def load(self, form: str, source: str, inputs: str, options: Mapping[str, Any]) -> dict[str, float]:
        self._feeds = read_feeds(inputs)
        self._cycle = itertools.cycle(self._feeds)
        begin = time.perf_counter()
        self._run = self._forms[form](Path(source), **options)
        self._run(self._feeds[0])
        return {"seconds": time.perf_counter() - begin}

    def run(self, out: str) -> dict[str, int]:
        answers = [np.array(self._run(feed)) for feed in self._feeds]  # copies: a tool may answer into one buffer
        np.savez(out, **{f"{ANSWER}/{i}": answer for i, answer in enumerate(answers)})
        return {"feeds": len(answers)}

    def time(self, runs: int, budget_ns: int, discard: int) -> dict[str, Any]:
        for feed in itertools.islice(self._cycle, discard):
            self._run(feed)
        cpu = time.process_time_ns()
        samples = list(self._timed(runs, budget_ns))
        return {"samples_ns": samples, "cpu_ns": time.process_time_ns() - cpu}

    def _timed(self, runs: int, budget_ns: int) -> Iterator[int]:
        run, clock = self._run, time.perf_counter_ns
        deadline = clock() + budget_ns
        for feed in itertools.islice(self._cycle, runs):
            begin = clock()
            run(feed)
            end = clock()
            yield end - begin
            if end >= deadline:
                return


def _claim_streams() -> tuple[Any, Any]:
    """Commands, out of reach of a tool that reads; replies go where the parent said."""
    commands = os.fdopen(os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return commands, os.fdopen(int(os.environ["PEER_REPLIES"]), "w")


def _told(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__
