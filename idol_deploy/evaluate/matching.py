"""Which result is which instance: the greedy matching of the official evaluators, at every threshold at once.

A: ranges of area or occlusion; T: overlap thresholds; D: results of one video and class, best score first; G: its
instances.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Matching", "match"]


class Matching(NamedTuple):
    """What became of the results.

    Attributes:
        hit: [A, T, D] it was matched with an instance that counts.
        miss: [A, T, D] it counts and was matched with none. Neither: the result is ignored.
    """

    hit: NDArray[np.bool_]
    miss: NDArray[np.bool_]


def match(
    overlaps: NDArray[np.float64],  # [D, G]
    thresholds: NDArray[np.float64],  # [T]
    ignored: NDArray[np.bool_],  # [A, G] instances that do not count in a range
    crowd: NDArray[np.bool_],  # [G] instances that take any number of results
    outside: NDArray[np.bool_],  # [A, D] results that are ignored if they are not matched
    nameless: NDArray[np.bool_],  # [G] instances with id 0
) -> Matching:
    """Give each result, best score first, the instance with the largest overlap of those that are still free.

    An ignored instance is taken only if no other can be; of equal overlaps the last is taken. As in the official
    evaluators, whose match is an id that must not be 0, a result matched with instance 0 counts as a miss.
    """
    (D, G), A, T = overlaps.shape, len(ignored), len(thresholds)
    matched = np.zeros((A, T, D), np.bool_)
    beside = np.zeros((A, T, D), np.bool_)  # matched with an ignored instance
    bars = np.minimum(thresholds, 1 - 1e-10)
    taken = np.zeros((A, T, G), np.bool_)
    # Ranks instead of overlaps: those that count come before the ignored, whatever the overlap.
    ranks = np.argsort(np.argsort(overlaps, axis=1, kind="stable"), axis=1)
    preference = np.where(ignored, 0, G)[:, None, :]  # [A, 1, G]
    a, t = np.ogrid[:A, :T]
    reachable = overlaps.max(axis=1, initial=-1.0) >= bars.min(initial=np.inf)
    for d in np.flatnonzero(reachable):
        free = (overlaps[d] >= bars[:, None]) & ~taken
        best = np.where(free, ranks[d] + preference, -1).argmax(axis=2)  # [A, T]
        found = free[a, t, best]
        matched[:, :, d] = found & ~nameless[best]
        beside[:, :, d] = found & ignored[a, best]
        taken[a, t, best] |= found & ~crowd[best]
    aside = beside | (~matched & outside[:, None, :])
    return Matching(hit=matched & ~aside, miss=~matched & ~aside)
