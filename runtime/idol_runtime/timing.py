"""Interleaved timing and its statistics: candidates run in turn, so that background load affects all of them."""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["PERCENTILES", "interleaved", "paired_ratio", "summarise"]

PERCENTILES = (50, 90, 95, 99)


def interleaved(
    candidates: Sequence[Callable[[], object]], rounds: int, warmup: int = 1
) -> NDArray[np.float64]:  # [rounds, candidates]
    """Call every candidate once per round and return the times in milliseconds.

    Args:
        candidates: functions to time.
        rounds: number of measured rounds.
        warmup: number of rounds before these, which fill caches.
    """
    times = np.zeros((warmup + rounds, len(candidates)))
    for row in times:
        for column, run in enumerate(candidates):
            start = time.perf_counter()
            run()
            row[column] = 1e3 * (time.perf_counter() - start)
    return times[warmup:]


def summarise(samples_ms: ArrayLike) -> Mapping[str, float]:
    """Return mean, minimum and percentiles of times in milliseconds, rounded to a microsecond."""
    values = np.asarray(samples_ms, np.float64)
    percentiles = np.percentile(values, PERCENTILES)
    summary = {"mean": values.mean(), "min": values.min()}
    summary |= {f"p{share}": value for share, value in zip(PERCENTILES, percentiles, strict=True)}
    return {name: round(float(value), 3) for name, value in summary.items()}


def paired_ratio(reference_ms: ArrayLike, candidate_ms: ArrayLike) -> Mapping[str, float]:
    """Return how many times as fast as the reference a candidate is, from interleaved times.

    Returns:
        `median`, `p10` and `p90`: median, 10th and 90th percentile of the ratios, taken frame by frame.
    """
    ratios = np.asarray(reference_ms, np.float64) / np.asarray(candidate_ms, np.float64)
    low, middle, high = np.percentile(ratios, (10, 50, 90))
    return {"median": round(float(middle), 3), "p10": round(float(low), 3), "p90": round(float(high), 3)}
