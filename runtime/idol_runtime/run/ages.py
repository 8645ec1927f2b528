"""Ages of frames: the time from a frame's arrival to its result, as a histogram of constant size."""

import math

import numpy as np

__all__ = ["FrameAges"]

# From 0.1 ms to more than 20 minutes in steps of 5 %.
_LOWEST_S, _RATIO, _BINS = 1e-4, 1.05, 340


class FrameAges:
    """A histogram of ages whose bins grow by 5 %, so that percentiles are exact to 5 % in constant memory.

    Attributes:
        count: number of ages.
    """

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS, np.int64)
        self.count = 0

    def add(self, age_s: float) -> None:
        """Add an age in seconds; one beyond the last bin is counted there."""
        steps = math.log(max(age_s, _LOWEST_S) / _LOWEST_S) / math.log(_RATIO)
        self._counts[min(int(steps), _BINS - 1)] += 1
        self.count += 1

    def percentile(self, percent: float) -> float:
        """Return an age in seconds that this share of the frames does not exceed; 0 without frames.

        Args:
            percent: share of the frames, in 0..100; 50 for the median.
        """
        if not self.count:
            return 0.0
        rank = max(1, math.ceil(self.count * percent / 100))
        bin_ = int(np.searchsorted(np.cumsum(self._counts), rank))
        return float(_LOWEST_S * _RATIO ** (bin_ + 1))

    def __str__(self) -> str:
        median, high = (1e3 * self.percentile(percent) for percent in (50, 99))
        return f"{median:.0f} ms (p50), {high:.0f} ms (p99)"
