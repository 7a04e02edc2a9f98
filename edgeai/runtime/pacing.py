"""How long the next piece of work will take, at most, from how long the last ones took."""

from __future__ import annotations

from typing import final

_GAIN, _VARIATION_GAIN = 1 / 8, 1 / 4
_DEVIATIONS = 4.0


@final
class Pace:
    """A running mean of durations (seconds) and of how far they lie from it.

    The mean plus four mean deviations, as TCP waits for its acknowledgements (RFC 6298, section 2). One thread at a
    time may `add`.
    """

    __slots__ = ("_deviation", "_mean")

    def __init__(self) -> None:
        self._mean = self._deviation = 0.0

    def add(self, seconds: float) -> None:
        if not self._mean:
            self._mean, self._deviation = seconds, seconds / 2
            return
        self._deviation += _VARIATION_GAIN * (abs(seconds - self._mean) - self._deviation)
        self._mean += _GAIN * (seconds - self._mean)

    @property
    def bound(self) -> float:
        """Seconds that one more takes, hardly ever longer; 0 as long as there was none."""
        return self._mean + _DEVIATIONS * self._deviation
