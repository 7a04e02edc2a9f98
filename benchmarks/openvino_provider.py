"""A second provider that takes most of a graph: placement, strictness, fallback, compilation, with the OpenVINO build.

    python benchmarks/openvino_provider.py [--venv DIRECTORY]

That build brings its own onnxruntime, so it gets a virtual environment of its own (`build/openvino-provider`, made and
filled from the package index where it is not there yet), in which this file runs again without torch and onnx. Leaves
`benchmarks/results/openvino_provider.json`; exit code 1 if a check failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "openvino_provider.json"
PACKAGE = "onnxruntime-openvino==1.24.1"
CPU = {"openvino": {"device_type": "CPU"}}
MODELS = {
    "mlp": """m (float[n,8] x) => (float[n,4] y) <float[8,16] v, float[16] s, float[16] b, float[16,4] w> {
        a = MatMul(x, v) c = LayerNormalization(a, s, b) d = Relu(c) y = MatMul(d, w) }""",
    "cnn": """c (float[n,3,16,16] x) => (float[n,8] y) <float[8,3,3,3] w, float[8] b> {
        a = Conv<pads = [1,1,1,1]>(x, w, b) c = Relu(a) d = MaxPool<kernel_shape = [2,2], strides = [2,2]>(c)
        e = GlobalAveragePool(d) y = Flatten(e) }""",
    "mixed": "u (float[n] x) => (float[k] y) { a = Relu(x) y = Unique<sorted = 1>(a) }",
    "left": "u (float[n] x) => (float[k] y) { y = Unique<sorted = 1>(x) }",
}


def write_models(directory: Path) -> None:
    """Needs torch and onnx, which the provider's environment does without."""
    import onnx
    from onnx import numpy_helper

    from edgeai.exporting import export, resolve
    from edgeai.graph import optimize

    random = np.random.default_rng(0)
    for name, text in MODELS.items():
        model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 18]> {text}')
        for value in model.graph.value_info:  # what the text declares and does not fill
            shape = [size.dim_value for size in value.type.tensor_type.shape.dim]
            values = random.normal(size=shape).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(values, value.name))
        onnx.save(model, directory / f"{name}.onnx")
    # What torch writes around a masked attention, and the form that edgeai makes of it for this provider.
    encoder = export(resolve("bert:reference"), out=directory / "encoder.onnx")
    optimize(encoder, out=directory / "encoder-openvino.onnx", target="openvino")


def refusal(act: Callable[[], Any]) -> str:
    """What the refusal says, with its type; an AssertionError if nothing was refused."""
    from edgeai.errors import EdgeAIError

    try:
        act()
    except EdgeAIError as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("nothing was refused")


def contains(text: str, *words: str) -> str:
    """`text`; an AssertionError if a word is missing."""
    missing = [word for word in words if word not in text]
    assert not missing, f"{missing} not in: {text}"
    return text


def checks(models: Path) -> dict[str, Callable[[], str]]:
    """Each returns what it found, or raises AssertionError."""
    import edgeai
    from edgeai.machine import machine, usable_cores
    from edgeai.runtime.providers import available, resolve
    from edgeai.runtime.settings import SessionSettings

    shapes = {"mlp": (3, 8), "cnn": (2, 3, 16, 16), "mixed": (6,), "left": (6,)}
    feeds = {
        name: {"x": np.random.default_rng(1).normal(size=shape).astype(np.float32)} for name, shape in shapes.items()
    }

    def load(name: str, **how: Any) -> Any:
        return edgeai.load(models / f"{name}.onnx", **{"ep": "openvino", "options": CPU, **how})

    def runs_here() -> str:
        found = available()
        assert found["openvino"] is None, found["openvino"]
        assert resolve("auto") == ("openvino",), resolve("auto")
        return "auto takes it, after a trial in another process"

    def whole(name: str) -> str:
        with load(name, min_on_ep=1.0) as session, edgeai.load(models / f"{name}.onnx", ep="cpu") as reference:
            worst = float(np.abs(session.run(feeds[name])["y"] - reference.run(feeds[name])["y"]).max())
            assert worst < 1e-4, worst
            share = session.profile(feeds[name]).time_share("openvino")
            assert share == 1.0, share
            return f"{session.placement.summary}; largest difference from the CPU {worst:.1e}"

    def encoder_is_whole() -> str:
        ids = np.random.default_rng(1).integers(0, 100, (2, 12))
        seen = np.ones_like(ids)
        seen[1, 7:] = 0
        feed = {"input_ids": ids, "attention_mask": seen, "token_type_ids": np.zeros_like(ids)}
        with (
            load("encoder") as exported,
            load("encoder-openvino", min_on_ep=1.0) as made,
            edgeai.load(models / "encoder.onnx", ep="cpu") as reference,
        ):
            (wanted,), (answer,) = reference.run(feed).values(), made.run(feed).values()
            worst = float(np.abs(answer - wanted).max())
            assert worst < 1e-4, worst
            contains(exported.placement.summary, "IsNaN")
            return f"{made.placement.summary}; as exported {exported.placement.summary}; largest difference {worst:.1e}"

    def partial() -> str:
        with load("mixed") as session:
            assert session.placement.share("openvino") == 0.5, session.placement.summary
            assert set(session.run({"x": np.array([1, -1, 1, 2], np.float32)})["y"]) == {0, 1, 2}
            return str(session.placement.summary)

    def fallback() -> str:
        with load("left", fallback=("cpu",)) as session:
            assert session.providers == ("cpu",), session.providers
            return contains(session.skipped[0], "openvino implements no node")

    def compiled() -> str:
        out = models / "compiled.onnx"
        try:
            edgeai.compile(models / "mlp.onnx", out=out, ep="openvino", options=CPU["openvino"])
        except edgeai.EdgeAIError as error:
            assert not out.exists(), "a file was left"
            return f"refused, nothing left: {error}"
        with edgeai.load(out, ep="openvino", options=CPU) as session, load("mlp") as reference:
            one, two = session.run(feeds["mlp"])["y"], reference.run(feeds["mlp"])["y"]
            assert np.allclose(one, two, atol=1e-5), float(np.abs(one - two).max())
            return "opens here, equal answers"

    def threads() -> str:
        many = {"x": np.ones((2000, 3, 16, 16), np.float32)}
        busy = {}
        for count in (1, 2):
            with load("cnn", settings=SessionSettings(threads=count), options={}) as session:
                session.run(many)
                wall, cpu = time.perf_counter(), time.process_time()
                for _ in range(20):
                    session.run(many)
                busy[count] = (time.process_time() - cpu) / (time.perf_counter() - wall)
        assert busy[1] < 1.2 and (usable_cores() < 2 or busy[2] > 1.4), busy
        return f"with one thread {busy[1]:.2f} cores are busy, with two {busy[2]:.2f}"

    def bfloat16() -> str:
        if "avx512_bf16" not in machine().features:
            return "not asked: this CPU has no instructions for it"
        with load("mlp", settings=SessionSettings(bfloat16=True), options={}) as lower, load("mlp") as usual:
            one, two = (session.run(feeds["mlp"])["y"] for session in (lower, usual))
            apart = float(np.abs(one - two).max() / np.abs(two).max())
            assert 1e-4 < apart < 3e-2, apart
            return f"answers {apart:.1e} of the largest value apart"

    def silent() -> str:
        code = f"import edgeai; edgeai.load({str(models / 'cnn.onnx')!r}, ep='openvino').close()"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
        assert (done.returncode, done.stdout) == (0, ""), (done.returncode, done.stdout[-300:], done.stderr[-300:])
        return "nothing on stdout"

    return {
        "it runs here and auto takes it": runs_here,
        "a whole mlp runs on it": lambda: whole("mlp"),
        "a whole cnn runs on it": lambda: whole("cnn"),
        "a masked encoder runs whole on it in its form": encoder_is_whole,
        "a part of a graph runs on it": partial,
        "min_on_ep refuses less": lambda: contains(
            refusal(lambda: load("mixed", min_on_ep=0.95)), "ProviderError", "runs 50.0% of the nodes", "1 Unique"
        ),
        "listed but unused is refused": lambda: contains(refusal(lambda: load("left")), "implements no node"),
        "the fallback is explicit and reported": fallback,
        "a device that is not there is refused": lambda: contains(
            refusal(lambda: load("mlp", options={"openvino": {"device_type": "NPU"}})),
            "ProviderError",
            "device_type=NPU",
        ),
        "an unknown option is refused": lambda: contains(
            refusal(lambda: load("mlp", options={"openvino": {"device": "CPU"}})),
            "UsageError",
            "did you mean device_type",
        ),
        "cuda is refused with the wheel named": lambda: contains(
            refusal(lambda: edgeai.load(models / "mlp.onnx", ep="cuda")), "onnxruntime-openvino", "built without it"
        ),
        "compiled ahead, or refused with a reason": compiled,
        "the session's threads reach it": threads,
        "the session's bfloat16 reaches it": bfloat16,
        "nothing on stdout": silent,
    }


def inside(models: Path) -> dict[str, Any]:
    """All checks, in the provider's environment."""
    from edgeai.machine import machine
    from edgeai.ort import onnxruntime

    rows = []
    for name, check in checks(models).items():
        try:
            rows.append({"check": name, "passed": True, "found": check()})
        except Exception as error:  # a check that breaks has failed like one that finds something wrong
            rows.append({"check": name, "passed": False, "found": f"{type(error).__name__}: {error}"})
    return {
        "package": PACKAGE,
        "onnxruntime": str(onnxruntime().__version__),
        "machine": machine().fingerprint,
        "failed": sum(not row["passed"] for row in rows),
        "checks": rows,
    }


def environment(directory: Path) -> Path:
    """The Python of a virtual environment that has the package."""
    python = directory / "bin" / "python"
    if not python.exists():
        venv.create(directory, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", PACKAGE], check=True, timeout=1200)
    return python


def main() -> int:
    parser = argparse.ArgumentParser(description="Check providers against the OpenVINO build of ONNX Runtime.")
    parser.add_argument("--venv", type=Path, default=ROOT / "build" / "openvino-provider")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        json.dump(inside(arguments.inside), sys.stdout)
        return 0
    python = environment(arguments.venv)
    with tempfile.TemporaryDirectory(prefix="edgeai-openvino-") as directory:
        write_models(Path(directory))
        done = subprocess.run(
            [python, __file__, "--inside", directory], capture_output=True, text=True, check=False, timeout=1200,
            env={**os.environ, "PYTHONPATH": str(ROOT), "EDGEAI_CACHE": str(Path(directory, "cache"))},
        )  # fmt: skip
    if done.returncode:
        sys.stderr.write(done.stderr)
        return done.returncode
    found = json.loads(done.stdout.replace(f"{directory}/", ""))
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    for row in found["checks"]:
        print("ok    " if row["passed"] else "FAILED", row["check"], "-", row["found"])
    print(f"{found['failed']} of {len(found['checks'])} failed")
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
