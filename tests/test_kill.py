"""kill -9 at random moments of every command that writes: at the final path there is a whole file or none."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import edgeai
from edgeai import storage
from edgeai.bench import Report
from edgeai.bundle import open_bundle
from edgeai.modelfile import check, open_artifact

# The long commands get fewer: 54 in all.
MOMENTS = {"export": 8, "optimize": 10, "quantize": 10, "run": 10, "bench": 6, "train": 4, "build": 4, "demo": 2}
Paths = Callable[[str], Path]


def whole_model(path: Path) -> None:
    open_artifact(path)
    check(path)


def whole_bundle(path: Path) -> None:
    open_bundle(path).close()


def whole_training(path: Path) -> None:
    """A directory that grows; `training.json` comes last, and each file in it is whole."""
    for npz in path.glob("*.npz"):
        edgeai.Samples.load(npz)
    if (path / "training.json").exists():
        from model_defs.trained import load

        load(path)


def whole_demo(path: Path) -> None:
    for bundle in path.glob("*.bundle"):
        whole_bundle(bundle)
    for record in path.glob("*.json"):
        json.loads(record.read_text())
    if (path / "trained" / "mlp").exists():
        whole_training(path / "trained" / "mlp")


def commands(
    trained: Path, model: Path, bundle: Path, out: Path
) -> dict[str, tuple[Sequence[str], Callable[[Path], None]]]:
    golden, calibration = str(trained / "golden.npz"), str(trained / "calibration.npz")
    return {
        "export": (["export", str(trained), "-o", str(out)], whole_model),
        "optimize": (["optimize", str(model), "-o", str(out)], whole_model),
        "quantize": (["quantize", str(model), "-p", "int8-static", "-d", calibration, "-o", str(out)], whole_model),
        "train": (["train", "mlp", "--preset", "tiny", "-o", str(out)], whole_training),
        "run": (["run", str(bundle), "--input", golden, "-o", str(out)], lambda path: len(edgeai.Samples.load(path))),
        "bench": (["bench", str(bundle), "--seconds", "0.1", "--json", str(out)], lambda path: Report.load(path)),
        "build": (["build", str(trained), "-o", str(out), "--time-budget", "2s"], whole_bundle),
        "demo": (
            ["demo", "-o", str(out), "--preset", "tiny", "--family", "mlp", "--time-budget", "2s"],
            whole_demo,
        ),
    }


SUFFIX = {
    "export": ".onnx",
    "optimize": ".onnx",
    "quantize": ".onnx",
    "run": ".npz",
    "bench": ".json",
    "build": ".bundle",
}


class Forks:
    """Commands in forks of one warm process, to be killed."""

    def __init__(self, temporary: Path) -> None:
        script = Path(__file__).with_name("fork_server.py")
        self._server = subprocess.Popen(
            [sys.executable, "-P", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(temporary)},  # who is killed cannot clean up
        )

    def start(self, arguments: Sequence[str]) -> int:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(list(arguments)) + "\n")
        self._server.stdin.flush()
        return self._number()

    def wait(self) -> int:
        return self._number()

    def close(self) -> None:
        self._server.communicate()

    def _number(self) -> int:
        assert self._server.stdout is not None
        return int(self._server.stdout.readline())


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    server = Forks(tmp_path_factory.mktemp("killed"))
    server.start(["--version"])  # returns once everything is imported
    server.wait()
    yield server
    server.close()


@pytest.mark.parametrize("command", MOMENTS)
def test_a_killed_command_leaves_a_whole_file_or_none(
    command: str, forks: Forks, trained: Paths, exported: Paths, built: Paths, tmp_path: Path
) -> None:
    sources = trained("mlp"), exported("mlp"), built("mlp")
    target = tmp_path / f"whole{SUFFIX.get(command, '')}"
    arguments, check_whole = commands(*sources, target)[command]
    start = time.monotonic()
    forks.start(arguments)
    assert forks.wait() == 0
    duration = time.monotonic() - start
    check_whole(target)

    moments = random.Random(0)
    killed = 0
    for moment in range(MOMENTS[command]):
        target = tmp_path / f"out{moment}{SUFFIX.get(command, '')}"
        arguments, check_whole = commands(*sources, target)[command]
        pid = forks.start(arguments)
        time.sleep(pause := moments.uniform(0, duration))
        with contextlib.suppress(ProcessLookupError):  # it may have finished
            os.killpg(pid, signal.SIGKILL)
        if forks.wait() == -signal.SIGKILL:
            killed += 1
        else:  # the first one was slower, or the machine was: this much time is too long
            duration = pause
        if target.exists():
            check_whole(target)
    assert killed, "no command was still running when it was killed"
    left = [path for path in tmp_path.iterdir() if not path.name.startswith(("whole", "out"))]
    assert not [path.name for path in left if not storage.is_partial(path)]
