"""Feeds that kill the process which runs them: a kernel that divides by a length of zero takes all of Python with it.

`python -m edgeai.runtime.rehearsal MODEL FEEDS PROVIDERS SETTINGS` is the process that tries them first. It says the
number of each feed before it runs it, so that the last one said is the one it died of.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgeai.errors import EdgeAIError
from edgeai.runtime.engine import Engine
from edgeai.runtime.loading import load
from edgeai.runtime.providers import PROVIDERS
from edgeai.runtime.session import Session
from edgeai.samples import Samples
from edgeai.spec import Array, Feed

Shapes = tuple[tuple[int, ...], ...]


def shapes_of(feed: Feed) -> Shapes:
    return tuple(array.shape for array in feed.values())


def deadly_shapes(engine: Engine, feeds: Sequence[Feed]) -> dict[Shapes, str]:
    """The shapes among `feeds`, of those with an empty axis, at which a session kills its process, and the signal.

    Other engines than sessions cannot be built elsewhere: nothing is known of them.
    """
    if not isinstance(engine, Session):
        return {}
    rest = list({shapes_of(feed): feed for feed in feeds if not all(array.size for array in feed.values())}.values())
    found: dict[Shapes, str] = {}
    while rest:
        tried, died_of = _try(engine, rest)
        if died_of:
            found[shapes_of(rest[tried])] = died_of
        rest = rest[tried + 1 :]
    return found


def _try(session: Session, feeds: Sequence[Feed]) -> tuple[int, str]:
    """The index of the last feed that was tried, and the signal that ended the process, if one did."""
    settings = json.dumps(dataclasses.replace(session.settings, threads=1).to_json())
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    with tempfile.TemporaryDirectory(prefix="edgeai-rehearsal-") as directory:
        file = Path(directory, "feeds.npz")
        Samples.from_feeds([{name: _plain(array) for name, array in feed.items()} for feed in feeds]).save(file)
        providers = ",".join(PROVIDERS[name].path or name for name in session.providers)
        arguments = [str(session.path), str(file), providers, settings]
        done = subprocess.run(
            [sys.executable, "-P", "-m", "edgeai.runtime.rehearsal", *arguments],
            env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    said = done.stdout.split()
    if done.returncode >= 0 or not said:  # whatever else went wrong goes wrong for the caller too, and is explained
        return len(feeds), ""
    return int(said[-1]), signal.Signals(-done.returncode).name


def _plain(array: Array) -> Array:
    return array.astype(str) if array.dtype.kind == "O" else array  # objects would be pickled


def main(model: str, feeds: str, providers: str, settings: str) -> None:
    """Run every feed, saying its number first."""
    with load(model, ep=providers.split(","), settings=json.loads(settings)) as session:
        for index, feed in enumerate(Samples.load(feeds).feeds()):
            sys.stdout.write(f"{index}\n")
            sys.stdout.flush()  # the parent reads it even if the next line ends this process
            try:
                session.run(feed)
            except EdgeAIError:  # a refusal is no death: the parent gets it too
                continue


if __name__ == "__main__":
    main(*sys.argv[1:])
