"""What the linter found, as data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# "refused": the target does not take it as it is; it fails there or falls back to another provider.
Runs = Literal["integer", "float", "refused"]


@dataclass(frozen=True)
class Row:
    """Products of one kind that run in one way for one reason. `weights` counts elements, `nodes` are names."""

    op_type: str
    runs: Runs
    rule: str
    reason: str
    source: str
    count: int
    weights: int
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Caution:
    """Something that runs, and is likely to be slow or wrong."""

    rule: str
    text: str
    source: str
    count: int
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class LintReport:
    """`basis` says where the graph is from: what ONNX Runtime made of the file here, or the file itself, by rule.

    `notes` say why something is no caution that would be one in a file of unknown origin.
    """

    path: Path
    target: str
    basis: str
    rows: tuple[Row, ...]
    cautions: tuple[Caution, ...]
    notes: tuple[str, ...] = ()

    @property
    def integer_share(self) -> float:
        """Of the weight elements that are multiplied with, the share that is multiplied as integers; 0 without any."""
        total = sum(row.weights for row in self.rows)
        return sum(row.weights for row in self.rows if row.runs == "integer") / total if total else 0.0

    @property
    def float_share(self) -> float:
        """The rest; 0 for a model without weights."""
        return 1 - self.integer_share if any(row.weights for row in self.rows) else 0.0
