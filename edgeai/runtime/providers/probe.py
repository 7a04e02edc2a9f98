"""`python -m edgeai.runtime.providers.probe NAME` runs y = x + x on a provider: exit code 0, or 1 and the reason."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from edgeai.errors import EdgeAIError
from edgeai.runtime.session import Session

# An ONNX model, float32 (1, 4): ModelProto(ir_version=8, opset 13, graph(Add(x, x) -> y)).
MODEL = bytes.fromhex(
    "08083a3f0a100a01780a017812017922034164643a001201675a130a0178120e0a0c080112080a0208010a0208"
    "0462130a0179120e0a0c080112080a0208010a02080442040a00100d"
)


def main(name: str) -> int:
    """Run the model on the provider, and only there."""
    x = np.arange(4, dtype=np.float32).reshape(1, 4)
    try:
        with tempfile.TemporaryDirectory(prefix="edgeai-probe-") as directory:
            path = Path(directory, "add.onnx")
            path.write_bytes(MODEL)
            with Session(path, ep=name) as session:
                answer = session.run({"x": x})["y"]
    except EdgeAIError as error:
        sys.stderr.write(f"\n{error.message}\n")
        return 1
    if not np.allclose(answer, 2 * x, rtol=1e-2):
        sys.stderr.write(f"\nit computes {answer.tolist()} for 2 * {x.tolist()}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
