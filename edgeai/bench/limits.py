"""The roofline: how close a model comes to what this machine can do (Williams, Waterman and Patterson, 2009).

Pure figures. What a graph computes and moves, and what the machine can do, is measured by `edgeai.roofline`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgeai.spec import Feed

COMPUTE, MEMORY = "compute", "memory"
COSTLIEST = 10


@dataclass(frozen=True)
class Ceilings:
    """What this machine was measured to do, with all the cores that a session uses.

    `operations` are per second (a multiply-add counts as two) for each number format: float32, int8. Bytes are per
    second: `memory_bytes` from the main memory, `cache_bytes` for what fits into `cache_size` bytes of the last cache.
    """

    operations: Mapping[str, float]
    memory_bytes: float
    cache_bytes: float
    cache_size: int
    cores: int

    def bandwidth(self, held_bytes: int) -> float:
        """Bytes a second for data that has to stay somewhere, together with all that is used between two uses."""
        return self.cache_bytes if held_bytes <= self.cache_size else self.memory_bytes


@dataclass(frozen=True)
class NodeCost:
    """One node of the graph that ran. `operations` and bytes are per inference, `time_ns` the profiler's median.

    `limit_ns` is the least time that the ceilings allow, `bound` names which of them ("" where nothing is counted),
    and `percent_of_limit` is 100 where no machine of these ceilings could be faster.
    """

    name: str
    op_type: str
    provider: str
    time_ns: int
    operations: int
    weight_bytes: int
    activation_bytes: int
    number_format: str
    limit_ns: float = 0.0
    bound: str = ""
    percent_of_limit: float = 0.0


@dataclass(frozen=True)
class Roofline:
    """All sums are per inference. `nodes` are the costliest first, at most ten; `node_count` is how many ran.

    `percent_of_limit` compares `limit_ns`, the sum over all nodes, with the measured median latency; `bound` says
    which ceiling most of that sum stands under. `profiled_ns` is what the nodes took under the profiler.
    """

    operations: int
    weight_bytes: int
    activation_bytes: int
    limit_ns: float
    latency_ns: float
    profiled_ns: int
    bound: str
    node_count: int
    nodes: tuple[NodeCost, ...]
    percent_of_limit: float


class Profiler(Protocol):
    """Looks inside a model on the CPU; `edgeai.roofline.GraphProfiler` is the one for ONNX files."""

    @property
    def ceilings(self) -> Ceilings: ...

    def nodes(self, path: str | Path, feed: Feed) -> tuple[NodeCost, ...]:
        """Every node that one run executes. Raises EdgeAIError if the model cannot be profiled."""


def limited(node: NodeCost, ceilings: Ceilings, *, model_weight_bytes: int) -> NodeCost:
    """The node with its limit: weights come from where the whole model's weights fit, activations from the cache."""
    memory_ns = 1e9 * (
        node.weight_bytes / ceilings.bandwidth(model_weight_bytes)
        + node.activation_bytes / ceilings.bandwidth(node.activation_bytes)
    )
    compute_ns = 1e9 * node.operations / ceilings.operations[node.number_format] if node.operations else 0.0
    bound = "" if memory_ns == compute_ns == 0 else COMPUTE if compute_ns >= memory_ns else MEMORY
    limit_ns = max(memory_ns, compute_ns)
    return dataclasses.replace(
        node, limit_ns=limit_ns, bound=bound, percent_of_limit=100 * limit_ns / max(node.time_ns, 1)
    )


def roofline(nodes: tuple[NodeCost, ...], ceilings: Ceilings, *, latency_ns: float) -> Roofline:
    """Put the nodes under the ceilings. `latency_ns` is one inference, measured without a profiler."""
    weights = sum(node.weight_bytes for node in nodes)
    known = [limited(node, ceilings, model_weight_bytes=weights) for node in nodes]
    under = {bound: sum(node.limit_ns for node in known if node.bound == bound) for bound in (COMPUTE, MEMORY)}
    return Roofline(
        operations=sum(node.operations for node in known),
        weight_bytes=weights,
        activation_bytes=sum(node.activation_bytes for node in known),
        limit_ns=sum(under.values()),
        latency_ns=latency_ns,
        profiled_ns=sum(node.time_ns for node in known),
        bound=max(under, key=under.__getitem__) if any(under.values()) else "",
        node_count=len(known),
        nodes=tuple(sorted(known, key=lambda node: -node.time_ns)[:COSTLIEST]),
        percent_of_limit=100 * sum(under.values()) / max(latency_ns, 1.0),
    )
