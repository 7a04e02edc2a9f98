"""The samples that tuning works with: each has one purpose, and stands nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeai.caching import with_empty_cache
from edgeai.errors import UsageError
from edgeai.metrics import Metric
from edgeai.probing import probe_feeds
from edgeai.samples import Samples
from edgeai.spec import Feed, Signature
from edgeai.tuning.splits import Splits

GOLDEN = 4


@dataclass(frozen=True)
class Data:
    """`metric` is scored on `output` (None: the first) where the samples have labels; without it forms are judged by
    how far their outputs are off. `calibration` is None where the inputs are invented: calibrating on those would lie.
    """

    calibration: Samples | None
    scoring: Samples
    golden: Samples
    metric: Metric | None = None
    output: str | None = None

    @classmethod
    def of(cls, samples: Samples, signature: Signature, *, name: str, seed: int = 0) -> Data:
        """A few golden vectors, the rest half for calibration and half for the score, drawn by `seed`; no metric yet.

        Raises UsageError for fewer than 3 samples, DataError where a sample stands in both halves.
        """
        samples = with_empty_cache(samples, signature)
        count = len(samples)
        if count < 3:
            raise UsageError(f"{count} samples cannot be split", hint="calibration, scoring and golden need one each")
        order = np.random.default_rng(seed).permutation(count)
        golden = min(GOLDEN, count // 3)
        middle = golden + (count - golden) // 2
        parts = (samples.take(sorted(part)) for part in np.split(order, (golden, middle)))
        first, calibration, scoring = parts
        calibration.refuse_overlap(scoring, f"{name}: calibration and scoring")
        return cls(calibration, scoring, first)

    @classmethod
    def invented(cls, signature: Signature, *, example: Feed | None = None, seed: int = 0) -> Data:
        """Generated inputs, after `example` if there is one."""
        feeds = [dict(example)] if example else []
        feeds += [probe_feeds(signature, seed=seed + i, count=1)[0].feed for i in range(GOLDEN)]
        made = Samples.from_feeds(feeds)
        return cls(None, made, made)

    @property
    def splits(self) -> Splits | None:
        """For a search within a budget: half of the scoring samples to search on, half for the score.

        None where there is no metric, or too little to split.
        """
        half = len(self.scoring) // 2
        if self.metric is None or self.calibration is None or not half:
            return None
        return Splits(self.calibration, self.scoring.take(slice(0, half)), self.scoring.take(slice(half, None)))
