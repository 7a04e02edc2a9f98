"""A provider's options fitted to one model: what depends on its axes and on the ranges that it declares."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgeai.artifact import Artifact
from edgeai.errors import UsageError
from edgeai.external import metadata
from edgeai.machine import usable_cores
from edgeai.ort import onnxruntime
from edgeai.runtime.engine_cache import cached_engines, cuda_environment
from edgeai.runtime.providers import (
    CudaOptions,
    OpenvinoOptions,
    ProviderOptions,
    TensorrtOptions,
    TensorrtRtxOptions,
)
from edgeai.runtime.settings import SessionSettings
from edgeai.spec import Signature

_RECORDING = ("enable_cuda_graph", "trt_cuda_graph_enable")  # ONNX Runtime's keys


@contextlib.contextmanager
def prepared(options: ProviderOptions, model: Path, settings: SessionSettings) -> Iterator[dict[str, str]]:
    """The options as ONNX Runtime takes them, while it makes the session of `model` with `settings`.

    Raises UnsafePathError if the directory of cached engines belongs to somebody else.
    """
    if isinstance(options, OpenvinoOptions):
        options = options.within(threads=settings.threads or usable_cores(), bfloat16=settings.bfloat16)
    if not isinstance(options, CudaOptions | TensorrtOptions | TensorrtRtxOptions):
        yield options.to_ort()
        return
    chosen = fitted(options, Artifact.from_metadata(model, metadata(model)).signature)
    values = chosen.to_ort()
    if not isinstance(chosen, TensorrtOptions) or not chosen.engine_cache:
        yield values
        return
    environment = cuda_environment(chosen.device_id)
    root, timings = chosen.engine_cache_path, chosen.timing_cache
    with cached_engines(model, values, environment=environment, root=root, timings=timings) as paths:
        yield {**values, **paths}


def fitted(options: ProviderOptions, signature: Signature | None) -> ProviderOptions:
    """Options with what the model decides filled in; whatever the user has set stays.

    Without a signature nothing is known of the axes: they count as symbolic.
    """
    if isinstance(options, CudaOptions) and options.cudnn_conv_algo_search is None and _is_dynamic(signature):
        return dataclasses.replace(options, cudnn_conv_algo_search="HEURISTIC")
    if isinstance(options, TensorrtOptions | TensorrtRtxOptions) and not options.profile_min_shapes:
        low, usual, high = profile_shapes(signature)
        return dataclasses.replace(options, profile_min_shapes=low, profile_opt_shapes=usual, profile_max_shapes=high)
    return options


def profile_shapes(signature: Signature | None) -> tuple[str, str, str] | tuple[None, None, None]:
    """The smallest, the usual and the largest shape of every input with a symbolic axis, as `x:1x3,y:1x8`.

    The usual size of an axis is the geometric middle of its range. Nothing for a model without symbolic axes, or with
    one whose range is not declared.
    """
    if signature is None:
        return None, None, None
    declared = {axis.name for axis in signature.axes}
    dynamic = [spec for spec in signature.inputs if any(isinstance(size, str) for size in spec.shape)]
    if not dynamic or any(isinstance(s, str) and s not in declared for spec in dynamic for s in spec.shape):
        return None, None, None

    def shapes(size: Callable[[Any], int]) -> str:
        return ",".join(
            f"{spec.name}:" + "x".join(str(s if isinstance(s, int) else size(signature.axis(s))) for s in spec.shape)
            for spec in dynamic
        )

    return (
        shapes(lambda axis: axis.minimum),
        shapes(lambda axis: axis.nearest(round((max(1, axis.minimum) * axis.maximum) ** 0.5))),
        shapes(lambda axis: axis.maximum),
    )


def raw_run(session: Any) -> Callable[[list[str], Any, Any], list[Any]]:
    """The call that runs an `onnxruntime.InferenceSession` on (names of outputs, feed, RunOptions or None).

    A session that records CUDA graphs replays them at the addresses of the recording, where a plain run's inputs are
    not: such runs are never recorded, only those with buffers bound on the device. Raises UsageError if the session
    records and has inputs with symbolic axes.
    """
    run: Callable[[list[str], Any, Any], list[Any]] = getattr(session, "_sess", session).run
    if not is_recording(session):
        return run
    symbolic = [node.name for node in session.get_inputs() if not all(isinstance(size, int) for size in node.shape)]
    if symbolic:
        raise UsageError(
            f"CUDA graphs are recorded at fixed shapes, and {', '.join(symbolic)} has symbolic axes",
            hint="export the model with fixed axes, or leave enable_cuda_graph off",
        )
    return lambda outputs, feed, options: run(outputs, feed, unrecorded(options))


def unrecorded(options: Any) -> Any:
    """RunOptions (new ones for None) for a run that is neither recorded nor replayed."""
    chosen = options or onnxruntime().RunOptions()
    chosen.add_run_config_entry("gpu_graph_id", "-1")  # onnxruntime_run_options_config_keys.h
    return chosen


def is_recording(session: Any) -> bool:
    """Does an `onnxruntime.InferenceSession` record its runs as CUDA graphs, to replay them?"""
    given = session.get_provider_options()
    return any(values.get(key) in ("1", "True", "true") for values in given.values() for key in _RECORDING)


def _is_dynamic(signature: Signature | None) -> bool:
    return signature is None or any(isinstance(size, str) for spec in signature.inputs for size in spec.shape)
