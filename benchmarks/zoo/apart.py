"""Work in a process of its own, with a time limit: a crash or a hang is an answer, not the end."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# The fork server is ended together with what its libraries hold; its tracker would warn of each lock.
os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")


class EndedError(Exception):
    """The process did not answer; the message says why, in one line."""


def apart(function: Callable[..., Any], *arguments: Any, timeout: float) -> Any:
    """What `function` answers in a fork of a process that has imported everything and run nothing.

    Raises EndedError if there is no answer within `timeout` seconds.
    """
    context = _context()
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send, args=(sender, function, arguments))
    child.start()
    sender.close()
    try:
        if not receiver.poll(timeout):
            raise EndedError(f"not done after {timeout:.0f} s")
        return receiver.recv()
    except EOFError:
        child.join()
        raise EndedError(f"the process ended with exit code {child.exitcode}") from None
    finally:
        child.kill()
        child.join()


@cache
def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    # The server starts with the environment's search path, not with this script's: it would preload nothing.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    context.set_forkserver_preload(["zoo.examination", "zoo.hub"])
    return context


def _send(sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    sender.send(function(*arguments))
