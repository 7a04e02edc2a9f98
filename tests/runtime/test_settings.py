"""Settings that do what they say, and no name that ONNX Runtime would ignore."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from edgeai.errors import UsageError
from edgeai.machine import usable_cores
from edgeai.runtime.session import Session
from edgeai.runtime.settings import SessionSettings


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"thread": 1}, "no option 'thread' .did you mean threads"),
        ({"threads": 0}, "threads = 0, must be at least 1"),
        ({"threads": "many"}, "threads='many' is not a whole number or none"),
        ({"threads": True}, "threads=True is not"),
        ({"threads": 1.5}, "threads=1.5 is not"),
        ({"spinning": "maybe"}, "spinning='maybe' is not true or false"),
        ({"graph_level": "most"}, "graph_level='most' is not one of none, basic"),
        ({"shrink": "often"}, "shrink='often' is not one of burst, always, never"),
        ({"non_finite": "raise"}, "non_finite='raise' is not one of pass, warn, refuse"),
        ({"disabled_optimizers": ["SkipLayerNormFuson"]}, "no optimizer .* mean SkipLayerNormFusion"),
        ({"disabled_optimizers": "all"}, "is not a list of names"),
        ({"config": {"session.x64quantprecison": "1"}}, "no config key .* mean session.x64quantprecision"),
        ({"config": {"session.optimized_model_filepath": "/x"}}, "no config key"),
        ({"config": {"session.dynamic_block_base": 4}}, "mapping of text"),
    ],
)
def test_bad_settings_are_refused(data: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        SessionSettings.from_json(data)


def test_a_level_given_in_python_is_checked_too() -> None:
    with pytest.raises(UsageError, match="no graph level 'fast'"):
        SessionSettings(graph_level="fast")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no moment to shrink at 'now'"):
        SessionSettings(shrink="now")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no way with NaN and infinity 'raise' .one of pass, warn, refuse"):
        SessionSettings(non_finite="raise")  # type: ignore[arg-type]


def test_json_round_trip() -> None:
    settings = SessionSettings(
        2, False, False, "basic", ("GeluFusion",), {"session.dynamic_block_base": "4"}, "never", "warn"
    )
    assert SessionSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings
    assert SessionSettings.from_json({}) == SessionSettings()
    assert SessionSettings.from_json({"threads": "none"}).threads is None


def test_everything_reaches_onnxruntime() -> None:
    options = SessionSettings(3, False, False, "basic").apply(onnxruntime)
    assert options.intra_op_num_threads == 3
    assert options.enable_cpu_mem_arena is False
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert SessionSettings().apply(onnxruntime).get_session_config_entry("session.intra_op.spin_duration_us") == "200"
    usual = SessionSettings(config={"session.intra_op.spin_duration_us": "50"}).apply(onnxruntime)
    assert usual.intra_op_num_threads == usable_cores()
    assert usual.get_session_config_entry("session.intra_op.allow_spinning") == "1"
    assert usual.get_session_config_entry("session.intra_op.spin_duration_us") == "50"
    key = "mlas.enable_gemm_fastmath_arm64_bfloat16"
    assert SessionSettings(bfloat16=True).apply(onnxruntime).get_session_config_entry(key) == "1"
    with pytest.raises(Exception, match="does not have configuration"):
        usual.get_session_config_entry(key)


def test_disabled_optimizers_are_disabled(model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimized graph keeps what would have been fused."""
    text = (
        "r (float[b,4] x) => (float[b,4] y) <float[4,4] w = {1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1}, float[4] c = {1,1,1,1}> \
        { m = MatMul(x, w) y = Add(m, c) }"
    )
    path = model(text)
    real = onnxruntime.InferenceSession
    seen = []

    def create(file: str, options: Any, **more: Any) -> Any:
        options.optimized_model_filepath = str(path.with_name("optimized.onnx"))
        return real(file, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", create)
    import onnx

    for disabled in ((), ("MatMulAddFusion",)):
        Session(path, settings=SessionSettings(graph_level="basic", disabled_optimizers=disabled)).close()
        seen.append([node.op_type for node in onnx.load(path.with_name("optimized.onnx")).graph.node])
    assert seen == [["Gemm"], ["MatMul", "Add"]]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity masks here")
def test_threads_follow_the_affinity_mask_of_the_moment() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert SessionSettings().apply(onnxruntime).intra_op_num_threads == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert SessionSettings().apply(onnxruntime).intra_op_num_threads == usable_cores()
