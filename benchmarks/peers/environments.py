"""The peers' virtual environments: made from their pinned requirements, and made anew when those change.

    python benchmarks/peers/environments.py [NAME ...]

llama-cpp-python has no wheel on PyPI: pip builds it, which takes a C++ compiler, CMake, and 10 to 30 minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
EDGEAI = "edgeai"  # runs in this environment: it is what the others are compared with
BUILDING = {"CMAKE_ARGS": "-DLLAVA_BUILD=OFF"}  # llama.cpp without its image models, which take half of the time
PEERS = ("onnxruntime", "optimum", "openvino", "openvino_provider", "pytorch", "llama_cpp")


def command(name: str) -> list[str]:
    """What starts the driver of the peer `name`. SystemExit, with what to do, if its environment is not there."""
    return [str(python_of(name)), "-P", str(HERE / name / "driver.py")]


def python_of(name: str) -> Path:
    """The Python of an environment that fits its requirements."""
    if name == EDGEAI:
        return Path(sys.executable)
    if not _is_current(name):
        raise SystemExit(f"no environment for {name}: run python benchmarks/peers/environments.py {name}")
    return _place(name) / "bin" / "python"


def is_there(name: str) -> bool:
    return name == EDGEAI or _is_current(name)


def make(name: str) -> None:
    """Create the environment of `name`, unless it is there and current."""
    if is_there(name):
        return
    shutil.rmtree(_place(name), ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(_place(name))], check=True)
    requirements = HERE / name / "requirements.txt"
    install = [str(_place(name) / "bin" / "python"), "-m", "pip", "install", "--quiet", "-r", str(requirements)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    subprocess.run(install, check=True, env=environment | BUILDING)
    _stamp(name).write_text(_digest(name) + "\n", encoding="utf-8")


def _is_current(name: str) -> bool:
    return _stamp(name).exists() and _stamp(name).read_text(encoding="utf-8").strip() == _digest(name)


def _place(name: str) -> Path:
    return HERE / name / ".venv"


def _stamp(name: str) -> Path:
    return _place(name) / "requirements.sha256"


def _digest(name: str) -> str:
    return hashlib.sha256((HERE / name / "requirements.txt").read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the peers' virtual environments.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PEERS)} [default: all]")
    names = parser.parse_args().names or PEERS
    if unknown := set(names) - set(PEERS):
        parser.error(f"there is no peer {', '.join(sorted(unknown))}")
    for name in names:
        make(name)
        print(f"{name}: {python_of(name)}")


if __name__ == "__main__":
    main()
