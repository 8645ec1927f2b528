"""What is said of many times: percentiles, and ratios of pairs that were taken one after the other."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["PERCENTILES", "paired_ratio", "summarise"]

PERCENTILES = (50, 90, 95, 99)


def summarise(samples_ms: ArrayLike) -> Mapping[str, float]:
    """Mean, least and percentiles of some times in milliseconds, to a microsecond."""
    values = np.asarray(samples_ms, np.float64)
    percentiles = np.percentile(values, PERCENTILES)
    found = {"mean": values.mean(), "min": values.min()}
    found |= {f"p{share}": value for share, value in zip(PERCENTILES, percentiles, strict=True)}
    return {name: round(float(value), 3) for name, value in found.items()}


def paired_ratio(reference_ms: ArrayLike, ours_ms: ArrayLike) -> Mapping[str, float]:
    """How many times as fast as a reference: median, 10th and 90th percentile of the ratios frame by frame.

    Times of one frame were taken one right after the other, so that what slows the machine for a while slows both.
    """
    ratios = np.asarray(reference_ms, np.float64) / np.asarray(ours_ms, np.float64)
    low, middle, high = np.percentile(ratios, (10, 50, 90))
    return {
        "median": round(float(middle), 3),
        "p10": round(float(low), 3),
        "p90": round(float(high), 3),
    }
