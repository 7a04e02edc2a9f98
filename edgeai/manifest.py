"""What a bundle says about itself: `manifest.json`, read strictly."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeai.archive import refuse_unsafe_name
from edgeai.artifact import Step
from edgeai.errors import IntegrityError, UsageError
from edgeai.spec import Signature

MANIFEST, MANIFEST_SUM = "manifest.json", "manifest.sha256"
GOLDEN_INPUTS, GOLDEN_OUTPUTS = "golden.npz", "expected.npz"
KIND, FORMAT = "edgeai-bundle", 1
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class FileRecord:
    """`sha256` is lower-case hex."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Manifest:
    """`proven_on`, `settings`, `results` and `task` are JSON objects that this layer carries and does not read."""

    model: str
    files: Mapping[str, FileRecord]
    signature: Signature | None
    lineage: tuple[Step, ...]
    versions: Mapping[str, str]
    proven_on: Mapping[str, Any]
    settings: Mapping[str, Any]
    results: Mapping[str, Any]
    task: Mapping[str, Any]
    tolerance: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {"kind": KIND, "format": FORMAT, **dataclasses.asdict(self)}

    def to_bytes(self) -> bytes:
        """Canonical JSON: the same manifest gives the same bytes. Raises UsageError for a value that is not JSON."""
        try:
            return (json.dumps(self.to_json(), indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"bundle: a value for the manifest is not JSON ({error})") from error

    @classmethod
    def from_bytes(cls, content: bytes, shown_as: Path) -> Manifest:
        """Raises IntegrityError for anything but a manifest of this format, UnsafePathError for unsafe names."""
        try:
            data = json.loads(content)
            if (data["kind"], data["format"]) != (KIND, FORMAT):
                raise ValueError(f"it is {data['kind']} format {data['format']}; this edgeai reads format {FORMAT}")
            manifest = cls(
                model=data["model"],
                files={name: FileRecord(row["sha256"], row["size_bytes"]) for name, row in data["files"].items()},
                signature=None if data["signature"] is None else Signature.from_json(data["signature"]),
                lineage=tuple(Step(**step) for step in data["lineage"]),
                versions=data["versions"],
                proven_on=data["proven_on"],
                settings=data["settings"],
                results=data["results"],
                task=data["task"],
                tolerance=data["tolerance"],
            )
            manifest._refuse_malformed()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise IntegrityError(f"{shown_as}: {MANIFEST} cannot be used ({error})") from error
        for name in manifest.files:
            refuse_unsafe_name(name, str(shown_as))
        return manifest

    def _refuse_malformed(self) -> None:
        if not all(type(row.size_bytes) is int and _SHA256.fullmatch(row.sha256) for row in self.files.values()):
            raise ValueError("files: no sha256 or no size")
        if self.model not in self.files:
            raise ValueError(f"model: {self.model} is not among the files")
        for name in ("versions", "proven_on", "settings", "results", "task"):
            if not isinstance(getattr(self, name), dict):
                raise ValueError(f"{name}: not an object")
        golden = {GOLDEN_INPUTS, GOLDEN_OUTPUTS} <= self.files.keys()
        if self.tolerance is not None and (type(self.tolerance) not in (int, float) or not golden):
            raise ValueError("tolerance: not a number, or no golden vectors")
