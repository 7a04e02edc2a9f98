"""Where kernels really ran and how long they took, from ONNX Runtime's profiler.

The assignment that `Placement` shows is made before nodes are fused; this is what is left of them, timed.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from edgeai.errors import ProviderError, UsageError
from edgeai.runtime.failures import explained
from edgeai.runtime.fitting import raw_run
from edgeai.runtime.placement import Node, Placement
from edgeai.runtime.providers import short_name
from edgeai.runtime.settings import SessionSettings
from edgeai.spec import Feed

_SUFFIX = "_kernel_time"


class Kernel(NamedTuple):
    """One kernel over all profiled runs; `duration_us` is in microseconds, as the profiler counts them."""

    name: str
    op_type: str
    provider: str
    calls: int
    duration_us: int


@dataclass(frozen=True)
class Profile:
    """The kernels of some runs, in the order of their first run."""

    kernels: tuple[Kernel, ...]

    @property
    def placement(self) -> Placement:
        """The same as `Session.placement`, after graph optimization."""
        return Placement(tuple(Node(kernel.name, kernel.op_type, kernel.provider) for kernel in self.kernels))

    def time_share(self, provider: str) -> float:
        """The part of the kernels' time that `provider` took, 0..1; 0 if they took none."""
        total = sum(kernel.duration_us for kernel in self.kernels)
        mine = sum(kernel.duration_us for kernel in self.kernels if kernel.provider == short_name(provider))
        return mine / total if total else 0.0

    @property
    def summary(self) -> str:
        """One line: the placement of the kernels, then the time of the operators that took most."""
        times: Counter[str] = Counter()
        for kernel in self.kernels:
            times[kernel.op_type] += kernel.duration_us
        total = sum(times.values())
        longest = ", ".join(f"{name} {time / total:.0%}" for name, time in times.most_common(3)) if total else "none"
        return f"{self.placement.summary}; time: {longest}"


@dataclass(frozen=True)
class _Profiled(SessionSettings):
    prefix: str = field(default="", kw_only=True)

    def apply(self, ort: Any) -> Any:
        options = super().apply(ort)
        options.enable_profiling = True
        options.profile_file_prefix = self.prefix
        return options


def profile(
    create: Callable[..., tuple[Any, Any]], path: Path, settings: SessionSettings, feed: Feed, *, runs: int
) -> Profile:
    """Profile `runs` runs of `feed` in a session of its own: `create(path, settings=...)` makes it as `opening.create`
    does.

    Raises UsageError for no runs, what `Session.run` raises for a feed that the model cannot compute, and ProviderError
    if the profiler wrote nothing that can be read, such as on a full disk.
    """
    if runs < 1:
        raise UsageError(f"profile: runs = {runs}, must be at least 1")
    with tempfile.TemporaryDirectory(prefix="edgeai-profile-") as directory:
        session, _ = create(path, settings=_Profiled(**asdict(settings), prefix=str(Path(directory, "run"))))
        call, outputs = raw_run(session), [node.name for node in session.get_outputs()]
        try:
            for _ in range(runs):
                call(outputs, dict(feed), None)
        # onnxruntime's exceptions share no base below Exception.
        except Exception as error:
            raise explained(error, path) from error
        try:
            events = json.loads(Path(session.end_profiling()).read_text())
        except (OSError, ValueError) as error:
            raise ProviderError(f"ONNX Runtime's profiler wrote nothing that can be read: {error}") from error
    return Profile(_kernels(events))


def _kernels(events: list[dict[str, Any]]) -> tuple[Kernel, ...]:
    found: dict[tuple[str, str, str], list[int]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
            arguments = event["args"]
            name = event["name"].removesuffix(_SUFFIX)
            key = (name, arguments["op_name"], short_name(arguments["provider"]))
            found.setdefault(key, []).append(event["dur"])
    return tuple(Kernel(*key, len(times), sum(times)) for key, times in found.items())
