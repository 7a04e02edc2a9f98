"""Run a model and see its inner tensors: some of them become outputs of a copy.

While the tensors of one feed are looked at the next feeds run. Two runs on half of the cores each leave fewer cores
idle than one run on all, and whoever looks is mostly alone with the interpreter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgeai.errors import QuantizationError
from edgeai.mapped import release
from edgeai.quantization.sessions import open_session
from edgeai.spec import Array, Feed

TOGETHER = 2  # feeds whose tensors are in memory: looked at, or run


def open_watching(model: ir.Model, wanted: set[str], path: Path, *, threads: int | None = None) -> Any:
    """A session with the tensors `wanted` among its outputs, and `path` to keep it at while it lives.

    The weights go to a file of their own beside it, which ONNX Runtime maps.
    """
    observed = model.clone()
    outputs = [value for node in observed.graph for value in node.outputs if value.name in wanted]
    present = {value.name for value in observed.graph.outputs}
    for value in outputs:
        if value.name not in present:
            value.type = value.shape = None  # whatever the file says of it; ONNX Runtime infers both
            observed.graph.outputs.append(value)
    ir.save(observed, path, format="protobuf", external_data="weights", size_threshold_bytes=1024)
    release(model)
    return open_session(path, level="basic", threads=threads)


def answers(
    session: Any, computed: list[str], feeds: Iterable[Feed], runs: ThreadPoolExecutor
) -> Iterator[dict[str, Array]]:
    """Feeds and the tensors `computed` from them, in order; the next ones are under way while one is looked at."""
    waiting: deque[Future[dict[str, Array]]] = deque()
    for feed in feeds:
        waiting.append(runs.submit(_observed, session, computed, feed))
        if len(waiting) == TOGETHER:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _observed(session: Any, computed: list[str], feed: Feed) -> dict[str, Array]:
    try:
        arrays = session.run(computed, dict(feed)) if computed else []
    # onnxruntime's exceptions share no base below Exception.
    except Exception as error:
        raise QuantizationError(f"calibration: the model does not run on the samples: {error}") from error
    return dict(feed) | dict(zip(computed, arrays, strict=True))
