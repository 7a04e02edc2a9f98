"""Three sets of samples that share none: one to calibrate on, one to search on, one for the final score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeai.errors import DataError
from edgeai.samples import Samples


@dataclass(frozen=True)
class Splits:
    """A score on data that a choice was made on is too good; hence `score`, which is looked at once."""

    calibration: Samples
    search: Samples
    score: Samples

    def __post_init__(self) -> None:
        """Raises DataError if a sample stands in two of them, told by its content."""
        self.calibration.refuse_overlap(self.search, "calibration and search")
        self.calibration.refuse_overlap(self.score, "calibration and score")
        self.search.refuse_overlap(self.score, "search and score")

    @classmethod
    def of(cls, samples: Samples, *, seed: int = 0) -> Splits:
        """A quarter to calibrate on, a quarter to search on, half for the score, at random.

        Samples that are there twice go to one side together. Raises DataError if fewer than 4 differ.
        """
        by_content: dict[str, list[int]] = {}
        for index, key in enumerate(samples.digests()):
            by_content.setdefault(key, []).append(index)
        distinct = list(by_content.values())
        if len(distinct) < 4:
            raise DataError(f"{len(distinct)} different samples cannot be split", hint="give at least 4, better 500")
        order = np.random.default_rng(seed).permutation(len(distinct))
        quarter = len(distinct) // 4
        parts = np.split(order, (quarter, 2 * quarter))
        return cls(*(samples.take(sorted(i for place in part for i in distinct[place])) for part in parts))
