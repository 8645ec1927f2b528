"""Smooth ways through time. T: frames."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["smooth_way", "wander"]

Array = NDArray[np.float64]


def wander(rng: np.random.Generator, frames: int, size: float, dims: int = 1) -> Array:
    """[T, dims]: smooth ways through 0 … ± size, with a period of about 20 to 80 frames."""
    t = np.arange(frames)[:, None]
    period = rng.uniform(20, 80, (2, dims))
    phase = rng.uniform(0, 2 * np.pi, (2, dims))
    ways = np.sin(2 * np.pi * t / period[0] + phase[0]) + 0.5 * np.sin(4 * np.pi * t / period[1] + phase[1])
    smooth: Array = size / 1.5 * ways
    return smooth


def smooth_way(times: Array, points: Array, at: NDArray[np.integer]) -> Array:  # [T, 2]
    """A cubic way through all points that never goes beyond two neighbours (Fritsch and Butland, 1984).

    Args:
        times: [k] ascending.
        points: [k, 2] where to be then.
        at: [T] times to tell; before the first and after the last it rests.
    """
    if len(times) == 1:
        return np.repeat(points, len(at), 0)
    step = np.diff(times)[:, None]
    slope = np.diff(points, axis=0) / step
    tangent = np.zeros_like(points)
    tangent[0], tangent[-1] = slope[0], slope[-1]
    before, after = slope[:-1], slope[1:]
    same = before * after > 0
    weight = (step[:-1] + 2 * step[1:]) / (3 * (step[:-1] + step[1:]))
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = before * after / (weight * after + (1 - weight) * before)
    tangent[1:-1] = np.where(same, mean, 0.0)
    i = np.clip(np.searchsorted(times, at, side="right") - 1, 0, len(step) - 1)
    width = step[i]
    u = np.clip((at - times[i])[:, None] / width, 0, 1)
    start = (1 + 2 * u) * (1 - u) ** 2 * points[i] + u * (1 - u) ** 2 * width * tangent[i]
    return start + u**2 * (3 - 2 * u) * points[i + 1] + u**2 * (u - 1) * width * tangent[i + 1]
