"""Sums of uint8 x int8 that leave 16 bits: found from calibration, avoided where the target would clamp them.

The fault itself is shown on an emulated Haswell (QEMU's user mode), which has AVX2 and no integer dot products.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeai.artifact import Artifact
from edgeai.machine import Machine, machine
from edgeai.quantization import Int8Dynamic, Int8Static, quantize
from edgeai.quantization.saturation import clamped_pairs
from edgeai.runtime.precise_sums import KEY, with_precise_sums
from edgeai.runtime.settings import SessionSettings
from edgeai.samples import Samples

HASWELL = dataclasses.replace(machine(), architecture="x86_64", cpu="Haswell", features=("avx", "avx2", "f16c", "fma"))
CASCADE_LAKE = dataclasses.replace(HASWELL, cpu="Cascade Lake", features=(*HASWELL.features, "avx512_vnni"))

_BODY = "g (float[n, 64] x) => (float[n, 32] y) { y = MatMul(x, W) }"
_RANDOM = np.random.default_rng(0)
# Weights near their largest magnitude, inputs near theirs: every second sum of two products needs a seventeenth bit.
_PLANTED = (_RANDOM.uniform(0.9, 1.0, (64, 32)) * np.where(_RANDOM.random((64, 32)) < 0.9, 1, -1)).astype(np.float32)
_ROWS = _RANDOM.uniform(2.0, 3.0, (16, 64)).astype(np.float32)
# No two large weights stand side by side.
_HARMLESS = (_PLANTED * np.where(np.arange(64) % 2, 0.01, 1.0)[:, None]).astype(np.float32)

_CHILD = """
import json, sys
import numpy, onnxruntime
print("ready", flush=True)
rows, answers = numpy.load(sys.argv[1]), {}
for name, path, config in json.loads(sys.argv[2]):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    for key, value in config.items():
        options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    answers[name] = session.run(None, {"x": rows})[0].tolist()
print(json.dumps(answers))
"""
_TIMEOUT_S = 240


@pytest.fixture
def quantized(
    write: Callable[..., Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Artifact]:
    """quantized(recipe, target, weight, rows) -> the planted model, made for `target` on whatever machine this is."""

    def quantized(recipe: Any, target: Machine, weight: np.ndarray = _PLANTED, rows: np.ndarray = _ROWS) -> Artifact:
        monkeypatch.setattr("edgeai.quantization.quantizing.machine", lambda: target)
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.onnx"
        return quantize(write(_BODY, W=weight), recipe, samples=Samples.from_rows({"x": rows}), out=out)

    return quantized


def _error(answer: Any, weight: np.ndarray = _PLANTED) -> float:
    wanted = _ROWS @ weight
    return float(np.linalg.norm(np.asarray(answer) - wanted) / np.linalg.norm(wanted))


@given(st.data(), st.integers(1, 5), st.integers(1, 3))
def test_pairs_are_flagged_if_and_only_if_some_allowed_inputs_leave_16_bits(
    data: Any, inputs: int, outputs: int
) -> None:
    weight = data.draw(hnp.arrays(np.int8, (inputs, outputs), elements=st.integers(-127, 127)))
    bounds = np.sort(data.draw(hnp.arrays(np.int64, (2, inputs), elements=st.integers(0, 255))), axis=0)
    found = clamped_pairs(weight, *bounds)
    for pair in range(-(-inputs // 2)):
        rows = range(2 * pair, min(2 * pair + 2, inputs))
        for column in range(outputs):
            sums = [0]
            for row in rows:
                sums = [total + int(weight[row, column]) * int(bounds[end, row]) for total in sums for end in (0, 1)]
            assert found[pair, column] == (max(sums) > 32767 or min(sums) < -32768)


def test_the_target_decides_and_the_lineage_says_why(quantized: Callable[..., Artifact]) -> None:
    for target, reduced in ((HASWELL, True), (CASCADE_LAKE, False)):
        options = quantized(Int8Static(), target).lineage[-1].options
        assert options["reduce_range"] is reduced
        seen = options["saturation"]
        assert isinstance(seen, Mapping) and seen["pairs"] == 32 * 32 and seen["clamped"] > 500
        assert list(seen["nodes"].values()) == [seen["clamped"] / seen["pairs"]]
    asked = quantized(Int8Static(reduce_range=False), HASWELL).lineage[-1].options
    assert asked["reduce_range"] is False, "what was asked for is what is done"


def test_all_bits_are_used_where_calibration_shows_that_the_sums_fit(
    quantized: Callable[..., Artifact], answers: Callable[..., list[np.ndarray]]
) -> None:
    made = quantized(Int8Static(), HASWELL, _HARMLESS)
    assert made.lineage[-1].options["reduce_range"] is False
    assert made.lineage[-1].options["saturation"] == {"pairs": 32 * 32, "clamped": 0, "nodes": {}}
    assert _error(answers(made.path, {"x": _ROWS})[0], _HARMLESS) < 0.01


@pytest.mark.parametrize("activation_type", ["uint8", "int8"])
def test_with_zero_in_the_middle_a_silent_channel_counts(
    activation_type: Any, quantized: Callable[..., Artifact], answers: Callable[..., list[np.ndarray]]
) -> None:
    rows = (_ROWS * np.where(np.arange(64) % 2, 0.001, 1.0)).astype(np.float32)
    for symmetric in (False, True):
        recipe = Int8Static(activation_type=activation_type, symmetric_activations=symmetric)
        made = quantized(recipe, HASWELL, rows=rows)
        assert made.lineage[-1].options["reduce_range"] is symmetric
        wanted, found = rows @ _PLANTED, answers(made.path, {"x": rows})[0]
        assert np.linalg.norm(found - wanted) < 0.02 * np.linalg.norm(wanted)


def test_channels_that_were_watched_for_another_reader_say_nothing(
    write: Callable[..., Artifact], tmp_path: Path
) -> None:
    body = """g (float[n, 4, 5, 4] x) => (float[n, 8, 5, 4] y, float[n, 4, 5, 3] z) {
        y = Conv(x, K) z = MatMul(x, M) }"""
    weights = {"K": np.ones((8, 4, 1, 1), np.float32), "M": np.ones((4, 3), np.float32)}
    rows = _RANDOM.uniform(2, 3, (4, 4, 5, 4)) * [1.0, 0.001, 1.0, 0.001]  # silent along the axis of MatMul alone
    samples = Samples.from_rows({"x": rows.astype(np.float32)})
    made = quantize(write(body, **weights), Int8Static(), samples=samples, out=tmp_path / "q.onnx")
    assert made.lineage[-1].options["saturation"]["nodes"] == {"Conv_0": 1.0}


def test_convolutions_and_transposed_weights_are_looked_at_in_the_order_of_their_sums(
    write: Callable[..., Artifact], tmp_path: Path
) -> None:
    body = """g (float[n, 4, 5, 5] x) => (float[n, 6] y) {
        h = Conv<group = 2>(x, K) p = GlobalAveragePool(h) f = Flatten(p) y = Gemm<transB = 1>(f, G) }"""
    kernel, matrix = np.ones((8, 2, 3, 3), np.float32), np.ones((6, 8), np.float32)
    rows = Samples.from_rows({"x": _RANDOM.uniform(2, 3, (4, 4, 5, 5)).astype(np.float32)})
    seen = {}
    for name, weights in (
        ("both", {"K": kernel, "G": matrix}),
        ("neither", {"K": kernel * [[[[1.0]], [[0.01]]]], "G": matrix * ([1.0, 0.01] * 4)}),
    ):
        arrays = {key: np.asarray(array, np.float32) for key, array in weights.items()}
        made = quantize(write(body, **arrays), Int8Static(), samples=rows, out=tmp_path / f"{name}.onnx")
        seen[name] = made.lineage[-1].options["saturation"]
    # Nine taps of two channels are nine pairs for each of eight filters; eight columns are four pairs for six rows.
    assert seen["both"] == {"pairs": 9 * 8 + 4 * 6, "clamped": 9 * 8 + 4 * 6, "nodes": {"Conv_0": 1.0, "Gemm_3": 1.0}}
    assert seen["neither"] == {"pairs": 9 * 8 + 4 * 6, "clamped": 0, "nodes": {}}


@pytest.mark.parametrize("recipe", [Int8Static(reduce_range=False), Int8Dynamic(reduce_range=False)])
def test_a_file_with_all_bits_gets_exact_kernels_on_a_cpu_that_would_clamp(
    quantized: Callable[..., Artifact], recipe: Any
) -> None:
    path = quantized(recipe, CASCADE_LAKE).path
    plain = SessionSettings()
    assert with_precise_sums(path, plain, on=HASWELL).config == {KEY: "1"}
    assert with_precise_sums(path, plain, on=CASCADE_LAKE) is plain
    chosen = SessionSettings(config={KEY: "0"})
    assert with_precise_sums(path, chosen, on=HASWELL) is chosen


def test_files_whose_sums_fit_are_left_alone(
    quantized: Callable[..., Artifact], write: Callable[..., Artifact]
) -> None:
    plain = SessionSettings()
    reduced, harmless = quantized(Int8Static(), HASWELL), quantized(Int8Static(), HASWELL, _HARMLESS)
    for path in (reduced.path, harmless.path, write(_BODY, W=_PLANTED).path):
        assert with_precise_sums(path, plain, on=HASWELL) is plain


def test_loaded_by_edgeai_a_file_made_for_another_cpu_answers_rightly_here(quantized: Callable[..., Artifact]) -> None:
    import edgeai

    made = quantized(Int8Static(), CASCADE_LAKE)
    with edgeai.load(made.path, ep="cpu") as session:
        assert _error(session.run({"x": _ROWS})["y"]) < 0.01
        assert (session.settings.config == {KEY: "1"}) is not machine().has_int8_dot_product


def _answers(command: list[str], models: list[tuple[str, Path, dict[str, str]]], folder: Path) -> dict[str, Any]:
    """What each model answers in a child process. Skips where that cannot even import what it needs."""
    rows = folder / "rows.npy"
    np.save(rows, _ROWS)
    plan = json.dumps([(name, str(path), config) for name, path, config in models])
    # The interpreter is started by its real path, where it does not know of a virtual environment.
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OPENBLAS_CORETYPE": "Haswell",
        "OMP_NUM_THREADS": "1",
        "ORT_DISABLE_TELEMETRY": "1",
    }
    child = subprocess.run(
        [*command, os.path.realpath(sys.executable), "-c", _CHILD, str(rows), plan],
        env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False,
    )  # fmt: skip
    if not child.stdout.startswith("ready"):
        pytest.skip(f"{' '.join(command)} does not run Python with ONNX Runtime: {child.stderr[-300:]}")
    assert child.returncode == 0, child.stderr
    answers: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return answers


def test_a_planted_model_is_wrong_on_an_emulated_haswell_and_right_as_made_for_it(
    quantized: Callable[..., Artifact], tmp_path: Path
) -> None:
    emulator = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        pytest.skip("this interpreter is not for x86-64 Linux")
    if emulator is None:
        pytest.skip("QEMU's user mode (qemu-x86_64) is not installed: apt-get install qemu-user")
    full, chosen = quantized(Int8Static(), CASCADE_LAKE).path, quantized(Int8Static(), HASWELL).path
    models: list[tuple[str, Path, dict[str, str]]] = [
        ("full", full, {}),
        ("full, precise", full, dict(with_precise_sums(full, SessionSettings(), on=HASWELL).config)),
        ("chosen", chosen, {}),
    ]
    here = {name: _error(answer) for name, answer in _answers([], models, tmp_path).items()}
    there = {name: _error(answer) for name, answer in _answers([emulator, "-cpu", "Haswell"], models, tmp_path).items()}
    assert there["full"] > 0.1, "wrong by tens of percent"
    assert there["chosen"] < 0.01 and there["full, precise"] < 0.01
    assert here["chosen"] < 0.01 and here["full, precise"] < 0.01
    if machine().has_int8_dot_product:
        assert here["full"] < 0.01
    else:
        assert here["full"] > 0.1, "this CPU has no integer dot products either"
