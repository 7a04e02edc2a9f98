"""Which node of the graph runs on which execution provider."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from edgeai.errors import ProviderError
from edgeai.runtime.providers import short_name


class Node(NamedTuple):
    """`provider` is edgeai's short name."""

    name: str
    op_type: str
    provider: str


@dataclass(frozen=True)
class Placement:
    """The graph's nodes as ONNX Runtime assigned them, before it fused any."""

    nodes: tuple[Node, ...]

    @classmethod
    def of(cls, session: Any) -> Placement:
        """Ask an `onnxruntime.InferenceSession` made with `session.record_ep_graph_assignment_info`."""
        return cls(
            tuple(
                Node(node.name, node.op_type, short_name(part.ep_name))
                for part in session.get_provider_graph_assignment_info()
                for node in part.get_nodes()
            )
        )

    def count(self, provider: str) -> int:
        """How many nodes run on `provider` (short or long name)."""
        return sum(node.provider == short_name(provider) for node in self.nodes)

    def share(self, provider: str) -> float:
        """The part of the nodes that run on `provider`, 0..1; 0 for a graph without nodes."""
        return self.count(provider) / len(self.nodes) if self.nodes else 0.0

    def refuse_below(self, provider: str, least: float, path: Path) -> None:
        """Raise ProviderError if `provider` runs none of the nodes, or less than the part `least` of them, 0..1."""
        if not self.nodes:
            return
        if not self.count(provider):
            raise ProviderError(
                f"{path}: execution provider {provider} implements no node of this model ({self.summary})",
                hint="choose another provider, or name one in fallback",
            )
        if self.share(provider) < least:
            raise ProviderError(
                f"{path}: execution provider {provider} runs {self.share(provider):.1%} of the nodes, less than "
                f"min_on_ep={least:g} ({self.summary})",
                hint="lower min_on_ep, name a fallback, or change the operators that stay elsewhere",
            )

    @property
    def summary(self) -> str:
        """One line, such as `cuda 45/48 (94%), cpu 3/48: 2 Shape, 1 Gather`."""
        parts = []
        for index, (provider, count) in enumerate(Counter(node.provider for node in self.nodes).most_common()):
            types = Counter(node.op_type for node in self.nodes if node.provider == provider).most_common(3)
            shown = f"{provider} {count}/{len(self.nodes)}"
            if index == 0:
                shown += f" ({self.share(provider):.0%})"
            else:
                shown += ": " + ", ".join(f"{number} {kind}" for kind, number in types)
            parts.append(shown)
        return ", ".join(parts) or "no nodes"
