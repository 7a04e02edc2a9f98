"""ONNX Runtime sessions for looking at models, not for shipping them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from edgeai.errors import QuantizationError
from edgeai.machine import machine
from edgeai.ort import onnxruntime

Level = Literal["basic", "extended", "all"]


# It removes a Transpose that is an output as well, and then the session does not open (onnxruntime 1.31).
_BLIND_TO_OUTPUTS = ["GemmTransposeFusion"]


def open_session(
    path: Path,
    *,
    level: Level = "all",
    threads: int | None = None,
    optimized: Path | None = None,
    prepacked: bool = True,
) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU provider that keeps its log to itself.

    `threads`: that share one run; None are all cores.
    `optimized`: where to write the graph as ONNX Runtime rewrote it, its weights in a file of their own beside it.
    `prepacked`: may kernels keep weights in a form of their own, beside the one they came in?
    "basic" is for graphs whose inner tensors were made outputs.
    Raises QuantizationError with ONNX Runtime's reason if the model does not load.
    """
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or machine().cores
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level.upper()}")
    if not prepacked:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
        prefix = "session.optimized_model_external_initializers_file"
        options.add_session_config_entry(f"{prefix}_name", optimized.name + ".data")
        options.add_session_config_entry(f"{prefix}_min_size_in_bytes", "1024")
    try:
        return ort.InferenceSession(
            str(path),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=_BLIND_TO_OUTPUTS if level == "basic" else [],
            enable_fallback=False,  # there is nothing to fall back to, and the second try is announced on stdout
        )
    # onnxruntime's exceptions share no base below Exception.
    except Exception as error:
        raise QuantizationError(f"ONNX Runtime does not open the model: {error}") from error
