"""What a long search has found out so far, on disk after every step, so that it goes on where it was interrupted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeai.errors import DataError
from edgeai.storage import atomic_text


class Journal:
    """Answers by question. Without a path it is kept in memory alone."""

    def __init__(self, path: Path | None, subject: object) -> None:
        """`subject` is all that the answers depend on. Raises DataError if the file is of another subject."""
        self._path = path
        self._subject = hashlib.sha256(json.dumps(subject, sort_keys=True).encode()).hexdigest()
        self._answers: dict[str, Any] = {}
        if path is not None and path.exists():
            self._answers = self._read(path)

    def ask(self, question: object, find_out: Callable[[], Any]) -> Any:
        """The known answer, or what `find_out` returns (JSON), which is then known."""
        key = json.dumps(question, sort_keys=True)
        if key not in self._answers:
            self._answers[key] = find_out()
            if self._path is not None:
                kept = {"subject": self._subject, "answers": self._answers}
                atomic_text(self._path, json.dumps(kept, indent=1), overwrite=True)
        return self._answers[key]

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            subject, answers = kept["subject"], dict(kept["answers"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not a search that can be resumed ({error})", hint="remove it") from error
        if subject != self._subject:
            raise DataError(f"{path}: is the search of another model, data or recipe", hint="remove it")
        return answers
