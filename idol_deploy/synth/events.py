"""Events of a video: absences of instances, and meetings of two instances.

n: instances; T: frames; H, W: height and width in pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Meeting", "Vanishing", "find_meetings", "find_vanishings"]

Bools = NDArray[np.bool_]

_TOUCH = 0.2  # least overlap of a meeting, as a share of the smaller instance


@dataclass(frozen=True)
class Vanishing:
    """An absence: an instance is not visible for some frames, and visible before and after.

    Attributes:
        instance: index of the instance.
        start: first frame of the absence.
        frames: length in frames.
        how: `hidden` behind something, or `outside` the frame for more than half of the absence.
    """

    instance: int
    start: int
    frames: int
    how: Literal["hidden", "outside"]


@dataclass(frozen=True)
class Meeting:
    """An overlap of the full outlines of two instances for some frames.

    Attributes:
        instances: indices of the two, the lower first.
        start: first frame of the overlap.
        frames: length in frames.
        crossed: whether the two changed sides.
    """

    instances: tuple[int, int]
    start: int
    frames: int
    crossed: bool


def find_vanishings(
    visible: Bools,  # [n, T]
    inside: Bools,  # [n, T]
) -> list[Vanishing]:
    """Find the absences of every instance.

    Args:
        visible: whether an instance has a mask in a frame.
        inside: whether an instance is within the frame, hidden or not.
    """
    vanishings = []
    for i, row in enumerate(visible):
        for start, stop in _runs(~row):
            if start > 0 and stop < len(row):
                hidden = inside[i, start:stop].mean() >= 0.5
                vanishings.append(Vanishing(i, start, stop - start, "hidden" if hidden else "outside"))
    return vanishings


def find_meetings(full: Bools) -> list[Meeting]:
    """Find the meetings of all pairs.

    Args:
        full: [n, T, H, W] full outline of each instance, hidden or not.
    """
    count, frames, height, width = full.shape
    flat = full.reshape(count, frames, -1).astype(np.float32)
    areas = flat.sum(-1)  # [n, T]
    shared = np.einsum("itp,jtp->tij", flat, flat, optimize=True)
    least = np.minimum(areas.T[:, :, None], areas.T[:, None])
    touch = shared > _TOUCH * np.maximum(least, 1)
    sums = np.stack([full.sum(3) @ np.arange(height), full.sum(2) @ np.arange(width)], -1)
    centres = sums / np.maximum(areas, 1)[..., None]  # [n, T, 2]
    meetings = []
    for i in range(count):
        for j in range(i + 1, count):
            for start, stop in _runs(touch[:, i, j]):
                ends = [max(start - 1, 0), min(stop, frames - 1)]
                before, after = centres[i, ends] - centres[j, ends]
                meetings.append(Meeting((i, j), start, stop - start, bool(before @ after < 0)))
    return meetings


def _runs(flags: Bools) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
