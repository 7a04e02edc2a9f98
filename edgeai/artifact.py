"""An ONNX file and how it came to be.

The lineage is stamped into the model's own metadata, so that no sidecar file can get lost.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeai.errors import ModelFormatError
from edgeai.spec import Signature

LINEAGE_KEY = "edgeai.lineage"
SIGNATURE_KEY = "edgeai.signature"


@dataclass(frozen=True)
class Step:
    """One tool that had its hands on the model: its options, its versions, and the file it started from."""

    tool: str
    options: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    parent_sha256: str = ""


@dataclass(frozen=True)
class Artifact:
    """A model file on disk. Every stage takes one and writes another; none is ever edited in place."""

    path: Path
    lineage: tuple[Step, ...] = ()
    signature: Signature | None = None

    @classmethod
    def from_metadata(cls, path: str | Path, metadata: Mapping[str, str]) -> Artifact:
        """Read what was stamped. A model that edgeai did not write has an empty lineage and no signature.

        Raises ModelFormatError if the stamp is there but unreadable.
        """
        try:
            steps = json.loads(metadata.get(LINEAGE_KEY, "[]"))
            stamped = metadata.get(SIGNATURE_KEY)
            signature = Signature.from_json(json.loads(stamped)) if stamped else None
            return cls(Path(path), tuple(Step(**step) for step in steps), signature)
        except (ValueError, TypeError, KeyError) as error:
            raise ModelFormatError(f"{path}: the edgeai stamp in its metadata is unreadable ({error})") from error

    def metadata(self) -> dict[str, str]:
        """The stamp: metadata key -> JSON text. Sorted, so that the same steps give the same bytes."""
        stamp = {LINEAGE_KEY: json.dumps([dataclasses.asdict(step) for step in self.lineage], sort_keys=True)}
        if self.signature is not None:
            stamp[SIGNATURE_KEY] = json.dumps(self.signature.to_json(), sort_keys=True)
        return stamp

    def after(self, step: Step, path: str | Path, signature: Signature | None = None) -> Artifact:
        """The artifact that `step` makes of this one, to be written to `path`."""
        return Artifact(Path(path), (*self.lineage, step), signature or self.signature)
