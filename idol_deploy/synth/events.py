"""What happens to instances: who vanishes for how long, and who crosses whom.

n: instances; T: frames; H, W: height and width in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Meeting", "Vanishing", "find_meetings", "find_vanishings"]

_TOUCH = 0.2  # share of the smaller that lies over or under the other, from which on two meet


@dataclass(frozen=True)
class Vanishing:
    """An instance is not seen for a while, and then again.

    Attributes:
        instance: its index.
        start: the first frame in which it is not seen.
        frames: for how many it isn't.
        how: behind something, or outside of the frame for most of them.
    """

    instance: int
    start: int
    frames: int
    how: Literal["hidden", "outside"]


@dataclass(frozen=True)
class Meeting:
    """Two instances overlap for a while, whether anything hides them or not.

    Attributes:
        instances: their indices, the lower first.
        start: the first frame in which they do.
        frames: for how many.
        crossed: whether they came out on the other sides of each other.
    """

    instances: tuple[int, int]
    start: int
    frames: int
    crossed: bool


def find_vanishings(
    seen: NDArray[np.bool_],  # [n, T]
    inside: NDArray[np.bool_],  # [n, T]
) -> list[Vanishing]:
    """When instances vanish, and return.

    Args:
        seen: who has a mask when.
        inside: who is within the frame when, hidden or not.
    """
    found = []
    for i, row in enumerate(seen):
        at = np.flatnonzero(row)
        for before, after in zip(at[:-1].tolist(), at[1:].tolist(), strict=True):
            if after - before > 1:
                within = inside[i, before + 1 : after].mean() >= 0.5
                found.append(Vanishing(i, before + 1, after - before - 1, "hidden" if within else "outside"))
    return found


def find_meetings(whole: NDArray[np.bool_]) -> list[Meeting]:
    """When instances meet.

    Args:
        whole: [n, T, H, W] all of each instance, hidden or not.
    """
    count, frames = whole.shape[:2]
    flat = whole.reshape(count, frames, -1).astype(np.float32)
    areas = flat.sum(-1)  # [n, T]
    shared = np.einsum("itp,jtp->tij", flat, flat, optimize=True)
    least = np.minimum(areas.T[:, :, None], areas.T[:, None])
    touch = shared > _TOUCH * np.maximum(least, 1)
    middles = _middles(whole, areas)
    found = []
    for i in range(count):
        for j in range(i + 1, count):
            for start, stop in _runs(touch[:, i, j]):
                before, after = max(start - 1, 0), min(stop, frames - 1)
                sides = middles[i, [before, after]] - middles[j, [before, after]]
                found.append(Meeting((i, j), start, stop - start, bool(sides[0] @ sides[1] < 0)))
    return found


def _middles(whole: NDArray[np.bool_], areas: NDArray[np.float32]) -> NDArray[np.float64]:  # [n, T, 2]
    divisor = np.maximum(areas, 1)
    rows = whole.sum(3) @ np.arange(whole.shape[2]) / divisor
    columns = whole.sum(2) @ np.arange(whole.shape[3]) / divisor
    return np.stack([rows, columns], -1)


def _runs(flags: NDArray[np.bool_]) -> Sequence[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
