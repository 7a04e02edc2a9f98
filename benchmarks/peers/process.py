"""The parent's end of the pipe to a peer: `common/protocol.py` tells what is said.

A peer that is waited for costs no processor time here, nor does one that waits: both block on a pipe.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from edgeai.bench.loop import Block, WarmUp
from edgeai.bench.workload import NS, Workload

HERE = Path(__file__).parent
FOREIGN = ("PYTHON", "VIRTUAL_ENV", "OMP_", "MKL_")
ANSWER_SECONDS = 600.0  # a compiler may be in it
QUANTIZING_SECONDS = 900.0
_WINDOWS = 3


class PeerError(Exception):
    """What the tool said when it failed, or how its process ended: a result, and counted as one."""


class Peer:
    """The process of `command`, which speaks the protocol. A lane of `edgeai.bench` once it has loaded something.

    Use as a context manager: the process is gone afterwards, whatever happened. Every method raises PeerError with
    what the tool said, if its process ended, or did not answer in time.
    """

    def __init__(self, name: str, command: Sequence[str], *, workload: Workload) -> None:
        self.name = name
        self._workload = workload
        # A file, not a pipe: nobody reads while the peer runs, and a full pipe would stop it.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed in __exit__)
        # With its own defaults: nothing of this environment's packages or threads.
        kept = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
        own = {"PYTHONPATH": str(HERE / "common"), "HF_HUB_OFFLINE": "1"}
        self._replies, theirs = os.pipe()
        self._scratch = tempfile.TemporaryDirectory(prefix="edgeai-peer-")  # some tools leave files where they stand
        self._process = subprocess.Popen(
            list(command),
            cwd=self._scratch.name,
            stdin=subprocess.PIPE,
            stdout=self._stderr,
            stderr=self._stderr,
            env=kept | own | {"PEER_REPLIES": str(theirs)},
            pass_fds=[theirs],
            process_group=0,  # Ctrl-C is the parent's to handle
        )
        os.close(theirs)
        self._pending = b""

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        assert process.stdin is not None
        self._kill()
        os.close(self._replies)
        with contextlib.suppress(BrokenPipeError):  # what was still unsent has no reader any more
            process.stdin.close()
        self._stderr.close()
        self._scratch.cleanup()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # a compiler's helpers too
        self._process.wait()

    def versions(self) -> dict[str, str]:
        return dict(self.ask("versions"))

    def quantize(
        self, recipe: str, source: Path, out: Path, calibration: Path | None = None, **options: object
    ) -> float:
        """Seconds that the tool took to write `out`."""
        reply = self.ask(
            "quantize",
            seconds=QUANTIZING_SECONDS,
            recipe=recipe,
            source=str(source.absolute()),
            out=str(out.absolute()),
            calibration=None if calibration is None else str(calibration.absolute()),
            options=options,
        )
        if not out.exists():
            raise PeerError("it said that it was done, and wrote nothing")
        return float(reply["seconds"])

    def load(self, form: str, source: Path, inputs: Path, **options: object) -> float:
        """Seconds to the first answer."""
        reply = self.ask(
            "load", form=form, source=str(source.absolute()), inputs=str(inputs.absolute()), options=options
        )
        return float(reply["seconds"])

    def run(self, out: Path) -> None:
        """Answer every input once, into an `.npz`."""
        self.ask("run", out=str(out.absolute()))

    def warm_up(self) -> WarmUp:
        """Windows of runs until the medians of the last three agree, or the workload's time is up."""
        workload, begin = self._workload, time.perf_counter_ns()
        medians: list[int] = []
        runs = 0
        while True:
            block = self.block(workload.warmup_window, budget_ns=int(workload.warmup_max_seconds * NS))
            runs += len(block.samples_ns)
            medians.append(sorted(block.samples_ns)[(len(block.samples_ns) - 1) // 2])
            last = medians[-_WINDOWS:]
            elapsed_ns = time.perf_counter_ns() - begin
            stable = len(last) == _WINDOWS and max(last) - min(last) <= workload.warmup_tolerance * min(last)
            if (stable and elapsed_ns >= workload.warmup_min_seconds * NS) or (
                elapsed_ns >= workload.warmup_max_seconds * NS
            ):
                return WarmUp(runs, elapsed_ns, medians[-1], stable)

    def block(self, runs: int, *, budget_ns: int, discard: int = 0) -> Block:
        reply = self.ask("time", runs=runs, budget_ns=budget_ns, discard=discard)
        return Block(tuple(reply["samples_ns"]), reply["cpu_ns"])

    def ask(self, do: str, *, seconds: float = ANSWER_SECONDS, **arguments: object) -> dict[str, Any]:
        """Send one command and wait for its reply."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        answer = json.loads(self._line(do, seconds))
        if "error" in answer:
            raise PeerError(answer["error"])
        reply: dict[str, Any] = answer["reply"]
        return reply

    def _line(self, do: str, seconds: float) -> bytes:
        deadline = time.monotonic() + seconds
        while b"\n" not in self._pending:
            ready, _, _ = select.select([self._replies], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self._kill()  # its answer would be taken for the next command's
                raise PeerError(f"{self.name}: no answer to {do} within {seconds:.0f} s")
            chunk = os.read(self._replies, 1 << 20)
            if not chunk:
                raise self._died()
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _died(self) -> PeerError:
        code = self._process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - 65_536))
        lines = self._stderr.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing on stderr")
        return PeerError(f"the process of {self.name} {how}: {last}")
