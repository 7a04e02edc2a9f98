"""Runs edgeai commands in forks of a process that has imported everything and run nothing.

So a command starts its work at once, and no thread pool of another test is carried over.
stdin: one JSON list of arguments a line. stdout: the fork's process id, then its exit code, a line each.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

PRELOADED = ("edgeai.building", "edgeai.verifying", "edgeai.benchmarking", "edgeai.cli.console", "model_defs.train")


def run(arguments: list[str]) -> None:
    os.setpgid(0, 0)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    code = 5
    try:
        from edgeai.cli import main

        main(arguments)
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        os._exit(code)


def serve() -> None:
    from edgeai.ort import onnxruntime

    for name in PRELOADED:
        importlib.import_module(name)
    onnxruntime()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            run(json.loads(line))
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
