"""Times that are compared: all that is, in turns, so that what slows the machine for a while slows all of it."""

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["interleaved"]


def interleaved(
    ways: Sequence[Callable[[], object]], rounds: int, first: int = 1
) -> NDArray[np.float64]:  # [rounds, ways]
    """Milliseconds that each call takes, of every way one in each round.

    Args:
        ways: to do the same thing.
        rounds: that count.
        first: rounds before them, which fill caches.
    """
    taken = np.zeros((first + rounds, len(ways)))
    for row in taken:
        for column, run in enumerate(ways):
            start = time.perf_counter()
            run()
            row[column] = 1e3 * (time.perf_counter() - start)
    return taken[first:]
