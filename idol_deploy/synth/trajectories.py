"""Smooth paths over time. T: frames."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["rotations", "smooth_path", "wander"]

Array = NDArray[np.float64]


def wander(rng: np.random.Generator, frames: int, size: float, dims: int = 1) -> Array:
    """Draw smooth paths, [T, dims], between -size and size, with periods of about 20 to 80 frames."""
    t = np.arange(frames)[:, None]
    period = rng.uniform(20, 80, (2, dims))
    phase = rng.uniform(0, 2 * np.pi, (2, dims))
    paths = np.sin(2 * np.pi * t / period[0] + phase[0]) + 0.5 * np.sin(4 * np.pi * t / period[1] + phase[1])
    return np.asarray(size / 1.5 * paths)


def rotations(angle: Array) -> Array:
    """Return the rotation matrices, [T, 2, 2], of angles in radians, [T]."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], 1)


def smooth_path(times: Array, points: Array, at: NDArray[np.integer]) -> Array:  # [T, 2]
    """Interpolate points by a cubic path that never overshoots two neighbours (Fritsch and Butland, 1984).

    Args:
        times: [k] ascending times of the points.
        points: [k, 2] positions at these times.
        at: [T] times to interpolate; the path rests before the first and after the last point.
    """
    if len(times) == 1:
        return np.repeat(points, len(at), 0)
    step = np.diff(times)[:, None]
    slope = np.diff(points, axis=0) / step
    tangent = np.zeros_like(points)
    tangent[0], tangent[-1] = slope[0], slope[-1]
    before, after = slope[:-1], slope[1:]
    weight = (step[:-1] + 2 * step[1:]) / (3 * (step[:-1] + step[1:]))
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = before * after / (weight * after + (1 - weight) * before)
    tangent[1:-1] = np.where(before * after > 0, mean, 0.0)
    i = np.clip(np.searchsorted(times, at, side="right") - 1, 0, len(step) - 1)
    width = step[i]
    u = np.clip((at - times[i])[:, None] / width, 0, 1)
    start = (1 + 2 * u) * (1 - u) ** 2 * points[i] + u * (1 - u) ** 2 * width * tangent[i]
    return start + u**2 * (3 - 2 * u) * points[i + 1] + u**2 * (u - 1) * width * tangent[i + 1]
