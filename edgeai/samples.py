"""Model inputs, with labels where there are any: calibration, scoring, golden vectors, benchmark inputs.

One `.npz`, in one of two forms that are told apart by their keys:

- rows: `NAME` is an array `(N, *sample)`; every input has its batch axis first
- feeds: `NAME/0`, `NAME/1`, ... is the i-th complete feed, any shapes

Labels are `labels` `(N, ...)`, for rows as for feeds.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeai.errors import DataError
from edgeai.spec import Array
from edgeai.storage import atomic_file

LABELS = "labels"


@dataclass(frozen=True)
class Samples:
    """Use `from_rows`, `from_feeds` or `load`. Exactly one of `rows` and `items` is filled."""

    rows: Mapping[str, Array]
    items: tuple[Mapping[str, Array], ...]
    labels: Array | None

    @classmethod
    def from_rows(cls, rows: Mapping[str, Array], labels: Array | None = None) -> Samples:
        """Arrays `(N, *sample)`, one for each input. Raises DataError if they do not agree on N or N is 0."""
        lengths = {name: len(array) if array.ndim else -1 for name, array in rows.items()}
        if labels is not None:
            lengths[LABELS] = len(labels)
        if not rows or len(set(lengths.values())) != 1 or min(lengths.values()) < 1:
            raise DataError(f"samples: every array needs the same number of rows, at least 1; got {lengths}")
        _refuse_objects(rows)
        return cls(dict(rows), (), labels)

    @classmethod
    def from_feeds(cls, feeds: Sequence[Mapping[str, Array]], labels: Array | None = None) -> Samples:
        """Complete feeds of any shapes. Raises DataError if there are none or their names differ."""
        if not feeds or not feeds[0] or any(feed.keys() != feeds[0].keys() for feed in feeds):
            raise DataError("samples: at least one feed is needed, and all must have the same input names")
        if labels is not None and len(labels) != len(feeds):
            raise DataError(f"samples: {len(feeds)} feeds but {len(labels)} labels")
        for feed in feeds:
            _refuse_objects(feed)
        return cls({}, tuple(dict(feed) for feed in feeds), labels)

    @classmethod
    def load(cls, path: str | Path) -> Samples:
        """Read an `.npz` of either form. Never unpickles. Raises DataError naming the file."""
        arrays = load_arrays(path, "samples")
        labels = arrays.pop(LABELS, None)
        numbered = [key.rpartition("/") for key in arrays]
        try:
            if not any(separator for _, separator, _ in numbered):
                return cls.from_rows(arrays, labels)
            count = 1 + max(int(index) for _, _, index in numbered)
            names = {name for name, _, _ in numbered}
            return cls.from_feeds([{name: arrays[f"{name}/{i}"] for name in names} for i in range(count)], labels)
        except (ValueError, KeyError) as error:
            raise DataError(f"{path}: rows (NAME) and feeds (NAME/0, NAME/1, ...) are mixed ({error})") from error
        except DataError as error:
            raise DataError(f"{path}: {error.message}") from None

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write an `.npz`, whole or not at all."""
        arrays = dict(self.rows)
        for index, feed in enumerate(self.items):
            arrays |= {f"{name}/{index}": array for name, array in feed.items()}
        if self.labels is not None:
            arrays[LABELS] = self.labels
        # Not np.savez: it takes the names as keywords, and an input may well be called `file`.
        with (
            atomic_file(path, overwrite=overwrite) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
        ):
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                    np.lib.format.write_array(stream, np.asanyarray(array), allow_pickle=False)

    def __len__(self) -> int:
        return len(self.items) or len(next(iter(self.rows.values())))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.rows or self.items[0])

    def feeds(self, batch: int = 1) -> Iterator[dict[str, Array]]:
        """Complete feeds in order; rows come `batch` at a time, with the last one possibly smaller."""
        if self.items:
            yield from (dict(feed) for feed in self.items)
        for start in range(0, len(self) if self.rows else 0, batch):
            yield {name: array[start : start + batch] for name, array in self.rows.items()}

    def take(self, indices: Sequence[int] | Array | slice) -> Samples:
        """The samples at these positions, in this order."""
        chosen = np.arange(len(self))[indices]
        labels = None if self.labels is None else self.labels[chosen]
        if self.items:
            return Samples.from_feeds([self.items[i] for i in chosen], labels)
        return Samples.from_rows({name: array[chosen] for name, array in self.rows.items()}, labels)

    def digests(self) -> list[str]:
        """One content hash for each sample (inputs only): equal digests are the same sample twice."""
        return [digest(feed) for feed in self.feeds(batch=1)]

    def refuse_overlap(self, other: Samples, what: str) -> None:
        """Raise DataError if any sample stands in both sets."""
        if shared := len(set(self.digests()) & set(other.digests())):
            raise DataError(f"{what}: {shared} samples stand in both sets", hint="scores on data seen before lie")


def load_arrays(path: str | Path, what: str) -> dict[str, Array]:
    """The arrays of an `.npz` by name. Never unpickles. Raises DataError naming the file and `what` it should hold."""
    try:
        with open(path, "rb") as stream:
            if not zipfile.is_zipfile(stream):  # numpy would advise to unpickle it
                raise zipfile.BadZipFile("it is no zip archive; numpy.savez writes one")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as archive:
                return {key: archive[key] for key in archive.files}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError, KeyError, TypeError, MemoryError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not an .npz of {what} ({error})") from error


def digest(feed: Mapping[str, Array]) -> str:
    """Hash of names, dtypes, shapes and values."""
    state = hashlib.sha256()
    for name in sorted(feed):
        array = np.ascontiguousarray(feed[name])
        state.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
        state.update(array.tobytes())
    return state.hexdigest()


def _refuse_objects(arrays: Mapping[str, Array]) -> None:
    for name, array in arrays.items():
        if array.dtype.kind == "O":
            raise DataError(f"samples: input {name} has dtype object", hint="use a numeric, bool or string array")
